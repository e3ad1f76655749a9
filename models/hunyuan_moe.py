"""Hunyuan-A13B: queries and keys normed behind the rotation; experts and a shared one in every layer."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    attend,
    embed,
    feed_forward,
    head,
    linear,
    norm,
    normed_heads,
    qkv,
    rope_factors,
    rope_of,
    rotated,
)
from graphsched.ops import Rope
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class HunyuanMoeConfig(AttentionConfig, ExpertConfig):
    pass


@architecture("hunyuan-moe", HunyuanMoeConfig)
def hunyuan_moe(c: HunyuanMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing, rope, factors = (
        Routing(c.n_expert, c.n_expert_used, normalised=True),
        rope_of(c, "neox"),
        rope_factors(c, w, inp),
    )
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + feed_forward(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(
    c: AttentionConfig, blk: Weights, x: Tensor, inp: Inputs, rope: Rope, factors: Tensor | None
) -> Tensor:
    """Heads are normed after they are rotated. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x)
    q, k = normed_heads(c, blk, *rotated(rope, q, k, inp, factors))
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp), c.n_embd)
