"""OLMo 2: norms behind attention and feed-forward, none in front; queries and keys normed over all heads."""

from dataclasses import dataclass, replace

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    SlidingConfig,
    embed,
    gated_ffn,
    head,
    norm,
    normed_whole,
    rope_of,
    self_attention,
    slides,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Olmo2Config(SlidingConfig):
    pattern: Pattern = key("attention.sliding_window_pattern", 4, low=1)


@architecture("olmo2", Olmo2Config)
def olmo2(c: Olmo2Config, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    unstretched = replace(rope, factor=1.0, yarn=False, magnitude=1.0)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        seen = {"rope": unstretched, "window": c.window} if slides(c, blk) else {"rope": rope}
        attention = self_attention(c, blk, x, inp, qk_norm=normed_whole, **seen)
        x = x + norm(c, attention, blk, "post_attention_norm")
        x = x + norm(c, gated_ffn(blk, x), blk, "post_ffw_norm")
    return head(c, w, x, tied=False)  # [T, V]
