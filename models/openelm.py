"""OpenELM: Llama whose layers differ in heads and width, with normed queries and keys."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    PerLayerHeadsConfig,
    embed,
    gated_ffn,
    head,
    norm,
    normed_heads,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class OpenElmConfig(PerLayerHeadsConfig):
    head_dim: int = key("attention.key_length", low=1)
    v_dim: int = key("attention.value_length", lambda c: c.head_dim, low=1)


@architecture("openelm", OpenElmConfig)
def openelm(c: OpenElmConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        own, h = c.at(blk.layer), norm(c, x, blk, "attn_norm")
        x = x + self_attention(own, blk, h, inp, rope, qk_norm=normed_heads)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, tied=True)  # [T, V]
