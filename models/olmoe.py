"""OLMoE: queries and keys normed over all heads; experts in every layer, weights as they are."""

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
    normed_whole,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class OlmoeConfig(AttentionConfig, ExpertConfig):
    pass


@architecture("olmoe", OlmoeConfig)
def olmoe(c: OlmoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing, rope = Routing(c.n_expert, c.n_expert_used), rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, qk_norm=normed_whole)
        x = x + experts(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
