"""EXAONE 4: norms behind attention and feed-forward only; the 32B model sees a window in three of four layers."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    SlidingConfig,
    embed,
    gated_ffn,
    head,
    norm,
    normed_heads,
    rope_factors,
    rope_of,
    self_attention,
    slides,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Exaone4Config(SlidingConfig):
    window: int = key("attention.sliding_window", 4096)
    pattern: Pattern = key("attention.sliding_window_pattern", 4, low=1)

    @property
    def has_window(self) -> bool:
        """The small model sees everything; files tell them apart by their layers only."""
        return self.n_run == 64


@architecture("exaone4", Exaone4Config)
def exaone4(c: Exaone4Config, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "neox"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        near = c.has_window and slides(c, blk)
        rotates = rope if near or not c.has_window else None
        attention = self_attention(
            c, blk, x, inp, rotates, factors, qk_norm=normed_heads, window=c.window if near else 0
        )
        x = x + norm(c, attention, blk, "post_attention_norm")
        x = x + norm(c, gated_ffn(blk, x), blk, "post_ffw_norm")
    return head(c, w, x)  # [T, V]
