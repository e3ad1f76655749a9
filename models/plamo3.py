"""PLaMo 3: norms around each sub-layer, normed queries and keys, windows in seven of eight layers."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    SlidingConfig,
    embed,
    gate_up_ffn,
    head,
    norm,
    normed_heads,
    rope_of,
    self_attention,
    slides,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Plamo3Config(SlidingConfig):
    pattern: Pattern = key("attention.sliding_window_pattern", 8, low=1)
    base_swa: float = key("rope.freq_base_swa", 10000.0, low=1)


@architecture("plamo3", Plamo3Config, scaled=("attn_output", "output"))
def plamo3(c: Plamo3Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        near = c.window > 0 and slides(c, blk)
        rope = rope_of(c, "neox", c.base_swa if near else c.rope_base)
        h, window = norm(c, x, blk, "attn_norm"), c.window if near else 0
        attention = self_attention(c, blk, h, inp, rope, qk_norm=normed_heads, window=window)
        x = x + norm(c, attention, blk, "post_attention_norm.")
        x = x + norm(c, gate_up_ffn(blk, norm(c, x, blk, "ffn_norm")), blk, "post_ffw_norm.")
    return head(c, w, x)  # [T, V]
