"""Phi-3: Llama with queries, keys and values in one matrix, gate and up in another, and LongRoPE."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    attend,
    embed,
    head,
    heads,
    joined_ffn,
    linear,
    norm,
    rope_of,
    turned,
)
from graphsched.ops import view
from graphsched.tensor import Tensor, labelled


@architecture("phi3", AttentionConfig)
def phi3(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    factors = long_or_short(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, factors)
        x = x + joined_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(
    c: AttentionConfig, blk: Weights, x: Tensor, inp: Inputs, factors: Tensor | None
) -> Tensor:
    n_q, n_k, n_v = c.n_head * c.head_dim, c.n_head_kv * c.head_dim, c.n_head_kv * c.v_dim
    qkv = linear(blk, "attn_qkv", x, n_q + n_k + n_v)
    q = heads(labelled(view(qkv, start=0, stop=n_q), "Qcur"), c.n_head)  # [T, H, Dh]
    k = heads(labelled(view(qkv, start=n_q, stop=n_q + n_k), "Kcur"), c.n_head_kv)
    v = heads(labelled(view(qkv, start=n_q + n_k, stop=n_q + n_k + n_v), "Vcur"), c.n_head_kv)
    q, k = turned(rope_of(c, "neox"), q, k, inp, factors)
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp), c.n_embd)


def long_or_short(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor | None:
    """LongRoPE: other angles if the cache is longer than the context of the first training."""
    name = "rope_factors_long" if inp.n_kv > c.rope_context else "rope_factors_short"
    return w.sized(name, c.rope_dim // 2) if name in w else None
