"""Gemma 3: Gemma 2 with normed queries and keys instead of capped scores; five of six layers see a window."""

import math
from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    SlidingConfig,
    attend,
    embed,
    gated_ffn,
    geglu,
    head,
    linear,
    norm,
    qkv,
    rope_of,
    rotated,
    slides,
)
from graphsched.ops import Rope, scale, softcap
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(SlidingConfig):
    pattern: Pattern = key("attention.sliding_window_pattern", 6, low=1)
    base_swa: float = key("rope.freq_base_swa", 10000.0, low=1)
    final_cap: float = key("final_logit_softcapping", 0.0)

    @property
    def scale(self) -> float:
        """Of the scores; the 27B model counts the embedding, not the head."""
        return (self.n_embd // self.n_head if self.n_layer == 62 else self.head_dim) ** -0.5


@architecture("gemma3", Gemma3Config)
def gemma3(c: Gemma3Config, w: Weights, inp: Inputs) -> Tensor:
    x = scale(embed(c, w, inp), by=math.sqrt(c.n_embd))  # [T, D]
    for blk in w.blk:
        attention = self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + norm(c, attention, blk, "post_attention_norm")
        ffn = gated_ffn(blk, norm(c, x, blk, "ffn_norm"), activation=geglu)
        x = x + norm(c, ffn, blk, "post_ffw_norm")
    logits = head(c, w, x)  # [T, V]
    return softcap(logits, cap=c.final_cap) if c.final_cap else logits


def self_attention(c: Gemma3Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Normed heads; layers with a window have a rotary base of their own. [T, D] -> [T, D]"""
    near = slides(c, blk)
    q, k, v = qkv(c, blk, x)
    q, k = norm(c, q, blk, "attn_q_norm"), norm(c, k, blk, "attn_k_norm")
    rope = (
        Rope(c.rope_dim, c.base_swa, "neox") if near else rope_of(c, "neox")
    )  # only far layers are stretched
    q, k = rotated(rope, q, k, inp)
    out = attend(c, blk, q, k, v, inp, scale=c.scale, window=c.window if near else 0)
    return linear(blk, "attn_output", out, c.n_embd)
