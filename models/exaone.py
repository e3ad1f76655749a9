"""EXAONE 3: Llama with the other pairs in RoPE."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    embed,
    gated_ffn,
    head,
    norm,
    rope_factors,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@architecture("exaone", AttentionConfig)
def exaone(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "neox"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
