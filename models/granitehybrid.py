"""Granite 4 hybrid: Granite's factors and feed-forwards; Mamba 2 in most layers, attention in some."""

from dataclasses import dataclass

from graphsched.arch import SCALED, Inputs, Weights, architecture, key
from graphsched.blocks import (
    HybridHeadsConfig,
    Mamba2Config,
    Routing,
    embed,
    feed_forward,
    head,
    mamba2_layer,
    norm,
    rope_factors,
    rope_of,
    scaled,
    self_attention,
)
from graphsched.models.granite import GraniteConfig
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class GraniteHybridConfig(Mamba2Config, HybridHeadsConfig, GraniteConfig):
    logit_scale: float = key("logit_scale", 1.0)


@architecture("granitehybrid", GraniteHybridConfig, scaled=(*SCALED, "ssm_in", "ssm_out"))
def granitehybrid(c: GraniteHybridConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used, normalised=True)
    rope = (rope_of(c, "norm"), rope_factors(c, w, inp)) if c.rotates else (None,)
    x = scaled(embed(c, w, inp), c.embedding_scale)  # [T, D]
    for blk in w.blk:
        h, by = norm(c, x, blk, "attn_norm"), c.attention_scale or c.head_dim**-0.5
        attends = c.at(blk.layer).n_head_kv
        y = (
            self_attention(c.at(blk.layer), blk, h, inp, *rope, scale=by)
            if attends
            else mamba2_layer(c, blk, h, inp)
        )
        x = x + scaled(y, c.residual_scale)
        x = x + scaled(feed_forward(routing, blk, norm(c, x, blk, "ffn_norm")), c.residual_scale)
    return scaled(head(c, w, x), 1.0 / c.logit_scale)  # [T, V]
