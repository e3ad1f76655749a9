"""Qwen3: Llama with half-split RoPE, and each head's queries and keys normed before it."""

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


@architecture("qwen3", AttentionConfig)
def qwen3(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(c: AttentionConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Attention with normed heads. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x)
    q, k = norm(c, q, blk, "attn_q_norm"), norm(c, k, blk, "attn_k_norm")
    q, k = rotated(rope_of(c, "neox"), q, k, inp)
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp), c.n_embd)
