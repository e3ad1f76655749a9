"""Laguna: windows behind a full layer, heads and rotation by kind of layer, a softplus gate on attention's output."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    PerLayerHeadsConfig,
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
from graphsched.ops import Rope, softplus
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class LagunaConfig(PerLayerHeadsConfig, SlidingConfig, RoutingConfig):
    pattern: Pattern = key("attention.sliding_window_pattern", 4, low=1)
    base_swa: float = key("rope.freq_base_swa", lambda c: c.rope_base, low=1)
    rope_dim_swa: int = key("rope.dimension_count_swa", lambda c: c.rope_dim, low=2)
    gating: int = key("expert_gating_func", 2, low=1, high=2)


@architecture("laguna", LagunaConfig)
def laguna(c: LagunaConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        x = x + self_attention(c.at(blk.layer), blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(c: LagunaConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Normed heads; layers with a window rotate other dimensions, without scaling. [T, D] -> [T, D]"""
    near = c.window > 0 and slides(c, blk, full_first=True)
    q, k, v = qkv(c, blk, x)
    q, k = normed_heads(c, blk, q, k)
    q, k = rotated(Rope(c.rope_dim_swa, c.base_swa, "neox") if near else rope_of(c, "neox"), q, k, inp)
    out = attend(c, blk, q, k, v, inp, window=c.window if near else 0)
    return linear(blk, "attn_output", gated_heads(blk, out, x, c.n_head, softplus), c.n_embd)
