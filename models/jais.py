"""Jais: LayerNorm, ALiBi instead of RoPE, scores over the head size and not its root."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import LayerNormConfig, embed, gated_ffn, head, norm, self_attention
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class JaisConfig(LayerNormConfig):
    max_bias: float = key("attention.max_alibi_bias", 0.0)


@architecture("jais", JaisConfig)
def jais(c: JaisConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        x = x + self_attention(c, blk, h, inp, None, scale=1.0 / c.head_dim, max_bias=c.max_bias)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
