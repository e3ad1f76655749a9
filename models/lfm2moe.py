"""LFM2-MoE: LFM2's layers, with experts by sigmoid behind the dense ones."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import RoutingConfig, embed, feed_forward, head, norm
from graphsched.models.lfm2 import Lfm2Config, mixer
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Lfm2MoeConfig(Lfm2Config, RoutingConfig):
    gating: int = key("expert_gating_func", low=1, high=2)
    normalised: bool = True
    weights_scale: float = 0.0


@architecture("lfm2moe", Lfm2MoeConfig)
def lfm2moe(c: Lfm2MoeConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + mixer(c.at(blk.layer), blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, final="token_embd_norm")  # [T, V]
