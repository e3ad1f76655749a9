"""Jamba: Mamba with normed steps, inputs and outputs; attention that does not rotate; experts in some layers."""

from dataclasses import dataclass

from graphsched.arch import SCALED, Inputs, Weights, architecture
from graphsched.blocks import (
    ExpertConfig,
    HybridHeadsConfig,
    Routing,
    embed,
    feed_forward,
    head,
    norm,
    self_attention,
)
from graphsched.models.mamba import MambaConfig, mamba_layer
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class JambaConfig(MambaConfig, HybridHeadsConfig, ExpertConfig):
    pass


@architecture("jamba", JambaConfig, scaled=(*SCALED, "ssm_in", "ssm_out"))
def jamba(c: JambaConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h, own = norm(c, x, blk, "attn_norm"), c.at(blk.layer)
        x = x + (self_attention(own, blk, h, inp, None) if own.n_head_kv else mamba_layer(own, blk, h, inp))
        x = x + feed_forward(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
