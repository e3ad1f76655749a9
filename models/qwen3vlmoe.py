"""Qwen3-VL-MoE, its text: Qwen3-VL with experts in every layer."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    embed,
    experts,
    head,
    norm,
    normed_heads,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Qwen3VlMoeConfig(AttentionConfig, ExpertConfig):
    pass


@architecture("qwen3vlmoe", Qwen3VlMoeConfig)
def qwen3vlmoe(c: Qwen3VlMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing, rope = Routing(c.n_expert, c.n_expert_used, normalised=True), rope_of(c, "imrope")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, qk_norm=normed_heads)
        x = x + experts(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
