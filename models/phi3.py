"""Phi-3: Llama with queries, keys and values in one matrix, gate and up in another, and LongRoPE."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    embed,
    gate_up_ffn,
    head,
    norm,
    rope_factors,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@architecture("phi3", AttentionConfig)
def phi3(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "neox"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + gate_up_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
