"""Ling (Bailing): Llama's attention with heads as wide as they rotate; experts with shared ones in every layer."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    embed,
    experts_and_shared,
    head,
    norm,
    rope_factors,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class BailingMoeConfig(AttentionConfig, ExpertConfig):
    head_dim: int = key("rope.dimension_count", lambda c: c.n_embd // c.n_head, low=2)
    v_dim: int = key("rope.dimension_count", lambda c: c.n_embd // c.n_head, low=2)
    normalised: bool = key("expert_weights_norm", False)
    weights_scale: float = key("expert_weights_scale", 0.0)


@architecture("bailingmoe", BailingMoeConfig)
def bailingmoe(c: BailingMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used, normalised=c.normalised, scale=c.weights_scale)
    rope, factors = rope_of(c, "norm"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + experts_and_shared(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
