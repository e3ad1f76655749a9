"""Qwen2: Llama with biases on queries, keys and values, and half-split RoPE."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    attend,
    embed,
    gated_ffn,
    head,
    linear,
    norm,
    qkv,
    rope_of,
    rotated,
)
from graphsched.tensor import Tensor


@architecture("qwen2", AttentionConfig)
def qwen2(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(c: AttentionConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Attention with biases on queries, keys and values. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x, bias=True)
    q, k = rotated(rope_of(c, "neox"), q, k, inp)
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp), c.n_embd)
