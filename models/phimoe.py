"""Phi-3.5-MoE: norms with biases, LongRoPE, experts in every layer, a bias on the logits."""

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
    rope_factors,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class PhiMoeConfig(AttentionConfig, ExpertConfig):
    pass


@architecture("phimoe", PhiMoeConfig)
def phimoe(c: PhiMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used, normalised=True)
    rope, factors = rope_of(c, "neox"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + experts(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, tied=False)  # [T, V]
