"""Command R7B: Command R with a window in three of four layers; the fourth sees everything and does not rotate."""

from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    LayerNormConfig,
    Pattern,
    SlidingConfig,
    embed,
    gated_ffn,
    head,
    norm,
    rope_factors,
    rope_of,
    scaled,
    self_attention,
    slides,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Cohere2Config(LayerNormConfig, SlidingConfig):
    window: int = key("attention.sliding_window", low=1)
    pattern: Pattern = key("attention.sliding_window_pattern", 4, low=1)
    logit_scale: float = key("logit_scale")


@architecture("cohere2", Cohere2Config, scaled=EVERY_SCALE)
def cohere2(c: Cohere2Config, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "norm"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h, near = norm(c, x, blk, "attn_norm"), slides(c, blk)
        turned, window = (rope, c.window) if near else (None, 0)
        x = x + self_attention(c, blk, h, inp, turned, factors, window=window) + gated_ffn(blk, h)
    return scaled(head(c, w, x, tied=True), c.logit_scale)  # [T, V]
