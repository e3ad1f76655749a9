"""Gemma: Llama with a scaled embedding, GELU in the gate, half-split RoPE and a tied output matrix."""

import math

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gated_ffn, geglu, head, norm, rope_of, self_attention
from graphsched.ops import scale
from graphsched.tensor import Tensor


@architecture("gemma", AttentionConfig)
def gemma(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = scale(embed(c, w, inp), by=math.sqrt(c.n_embd))  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"), activation=geglu)
    return head(c, w, x, tied=True)  # [T, V]
