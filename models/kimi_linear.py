"""Kimi Linear: a delta rule that forgets by channel in most layers, latent attention that does not rotate in some."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    ChannelDeltaConfig,
    LatentConfig,
    RoutingConfig,
    channel_delta_layer,
    embed,
    feed_forward,
    head,
    latent_attention,
    latent_halves,
    linear,
    low_rank_forgotten,
    norm,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class KimiLinearConfig(ChannelDeltaConfig, LatentConfig, RoutingConfig):
    n_head_kv: int = key("attention.head_count_kv", per_layer=True)
    gating: int = key("expert_gating_func", low=1, high=2)
    normalised: bool = True
    rope: None = None


@architecture("kimi-linear", KimiLinearConfig, derive=latent_halves, scaled=())
def kimi_linear(c: KimiLinearConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        mixer = latent_attention if c.at(blk.layer).n_head_kv else delta_layer
        x = x + mixer(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, tied=False)  # [T, V]


def delta_layer(c: KimiLinearConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """What is forgotten, and the gate of the output, through low ranks. [T, D] -> [T, D]"""
    gate = linear(blk, "ssm_g_b", linear(blk, "ssm_g_a", x), c.n_head * c.kda_dim)
    return channel_delta_layer(c, blk, x, inp, low_rank_forgotten(c, blk, x), gate)
