"""Qwen3-MoE: attention of Qwen3, experts in every layer with normalised weights."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, ExpertConfig, Routing, embed, experts, head, norm
from graphsched.models.qwen3 import self_attention
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Qwen3MoeConfig(AttentionConfig, ExpertConfig):
    pass


@architecture("qwen3moe", Qwen3MoeConfig)
def qwen3moe(c: Qwen3MoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used, normalised=True)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + experts(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
