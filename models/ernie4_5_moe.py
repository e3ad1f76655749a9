"""ERNIE 4.5 MoE: experts in every n-th layer behind the dense ones, a bias on the choice, shared experts."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    embed,
    feed_forward,
    head,
    norm,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class ErnieMoeConfig(AttentionConfig, ExpertConfig):
    pass


@architecture("ernie4_5-moe", ErnieMoeConfig)
def ernie4_5_moe(c: ErnieMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing, rope = Routing(c.n_expert, c.n_expert_used, normalised=True), rope_of(c, "norm")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, out_bias=False)
        x = x + feed_forward(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
