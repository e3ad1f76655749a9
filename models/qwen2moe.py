"""Qwen2-MoE: attention of Qwen2; experts without normalised weights, a shared expert behind a gate."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, ExpertConfig, Routing, embed, experts_and_gated, head, norm
from graphsched.models.qwen2 import self_attention
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Qwen2MoeConfig(AttentionConfig, ExpertConfig):
    pass


@architecture("qwen2moe", Qwen2MoeConfig)
def qwen2moe(c: Qwen2MoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + experts_and_gated(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
