"""AFMoE (Trinity): windows, full layers do not rotate, a gate for each element; experts behind dense layers."""

import math
from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    RoutingConfig,
    SlidingConfig,
    attend,
    embed,
    feed_forward,
    gated_heads,
    head,
    linear,
    norm,
    normed_heads,
    qkv,
    rope_of,
    rotated,
    slides,
)
from graphsched.ops import scale, sigmoid
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class AfMoeConfig(SlidingConfig, RoutingConfig):
    pattern: Pattern = key("attention.sliding_window_pattern", 4, low=1)
    base_swa: float = key("rope.freq_base_swa", lambda c: c.rope_base, low=1)
    gating: int = key("expert_gating_func", 2, low=1, high=2)


@architecture("afmoe", AfMoeConfig)
def afmoe(c: AfMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    x = scale(embed(c, w, inp), by=math.sqrt(c.n_embd))  # [T, D]
    for blk in w.blk[: c.n_run]:
        attention = self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + norm(c, attention, blk, "post_attention_norm")
        ffn = feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
        x = x + norm(c, ffn, blk, "post_ffw_norm")
    return head(c, w, x)  # [T, V]


def self_attention(c: AfMoeConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Normed heads, not rotated in every fourth layer; the output times sigmoid(attn_gate · x). [T, D] -> [T, D]"""
    near = slides(c, blk)
    q, k, v = qkv(c, blk, x)
    q, k = normed_heads(c, blk, q, k)
    if (blk.layer + 1) % 4:  # whatever the pattern says
        q, k = rotated(rope_of(c, "neox", c.base_swa if near else c.rope_base), q, k, inp)
    out = attend(c, blk, q, k, v, inp, window=c.window if near else 0)
    return linear(blk, "attn_output", gated_heads(blk, out, x, c.n_head, sigmoid), c.n_embd)
