"""DBRX: LayerNorm, clipped queries, keys and values, experts in every layer."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    ExpertConfig,
    LayerNormConfig,
    Routing,
    embed,
    experts,
    head,
    norm,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class DbrxConfig(LayerNormConfig, ExpertConfig):
    clip: float = key("attention.clamp_kqv")


@architecture("dbrx", DbrxConfig)
def dbrx(c: DbrxConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, routing = rope_of(c, "neox"), Routing(c.n_expert, c.n_expert_used, normalised=True)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, clip=c.clip)
        x = x + experts(routing, blk, norm(c, x, blk, "attn_output_norm"))
    return head(c, w, x, tied=False)  # [T, V]
