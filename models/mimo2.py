"""MiMo-V2: windows by list, keys and values of different heads, sinks, scaled attention; experts by sigmoid."""

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
    head,
    linear,
    norm,
    qkv,
    rope_of,
    rotated,
    scaled,
    slides,
)
from graphsched.ops import Rope
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class MiMo2Config(PerLayerHeadsConfig, SlidingConfig, RoutingConfig):
    window: int = key("attention.sliding_window", low=1)
    pattern: Pattern = key("attention.sliding_window_pattern", low=1)
    base_swa: float = key("rope.freq_base_swa", 10000.0, low=1)
    value_scale: float = key("attention.value_scale", 0.0)
    gating: int = 2
    normalised: bool = True
    weights_scale: float = 0.0


@architecture("mimo2", MiMo2Config, scaled=("attn_output",))
def mimo2(c: MiMo2Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        x = x + self_attention(c.at(blk.layer), blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(c: MiMo2Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Layers with a window have a rotary base of their own; sinks where the file has them. [T, D] -> [T, D]"""
    near = slides(c, blk)
    rope = Rope(c.rope_dim, c.base_swa, "neox") if near else rope_of(c, "neox")
    q, k, v = qkv(c, blk, x, bias=False)
    q, k = rotated(rope, q, k, inp)
    sinks = (blk.sized("attn_sinks", c.n_head),) if "attn_sinks" in blk else ()
    out = attend(c, blk, q, k, v, inp, *sinks, window=c.window if near else 0)
    return scaled(linear(blk, "attn_output", out, c.n_embd), c.value_scale)
