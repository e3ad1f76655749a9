"""Gemma 2: norms around each sub-layer, GELU, a window in every other layer, capped scores and logits."""

import math
from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
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
from graphsched.ops import scale, softcap
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Gemma2Config(SlidingConfig):
    window: int = key("attention.sliding_window", 4096)
    base_swa: float = key("rope.freq_base_swa", lambda c: c.rope_base, low=1)
    attn_cap: float = key("attn_logit_softcapping", 50.0)
    final_cap: float = key("final_logit_softcapping", 30.0)

    @property
    def scale(self) -> float:
        """Of the scores; the 27B model counts the embedding, not the head."""
        return (self.n_embd // self.n_head if self.n_layer == 46 else self.head_dim) ** -0.5


@architecture("gemma2", Gemma2Config)
def gemma2(c: Gemma2Config, w: Weights, inp: Inputs) -> Tensor:
    x = scale(embed(c, w, inp), by=math.sqrt(c.n_embd))  # [T, D]
    for blk in w.blk:
        attention = self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + norm(c, attention, blk, "post_attention_norm")
        ffn = gated_ffn(blk, norm(c, x, blk, "ffn_norm"), activation=geglu)
        x = x + norm(c, ffn, blk, "post_ffw_norm")
    logits = head(c, w, x, tied=True)  # [T, V]
    return softcap(logits, cap=c.final_cap) if c.final_cap else logits


def self_attention(c: Gemma2Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """A window and a rotary base of their own in layers that slide; scores capped. [T, D] -> [T, D]"""
    window = c.window if slides(c, blk) else 0
    q, k, v = qkv(c, blk, x)
    q, k = rotated(rope_of(c, "neox", base=c.base_swa if window else c.rope_base), q, k, inp)
    out = attend(c, blk, q, k, v, inp, scale=c.scale, softcap=c.attn_cap, window=window)
    return linear(blk, "attn_output", out, c.n_embd)
