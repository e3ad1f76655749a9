"""Hunyuan 3 (Hy3): Qwen3's attention; leading dense layers, experts by sigmoid and a shared one."""

from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    RoutingConfig,
    embed,
    feed_forward,
    head,
    norm,
    normed_heads,
    rope_factors,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class HyV3Config(AttentionConfig, RoutingConfig):
    gating: int = key("expert_gating_func", 2, low=1, high=2)


@architecture("hy_v3", HyV3Config, scaled=EVERY_SCALE)
def hy_v3(c: HyV3Config, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "neox"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors, qk_norm=normed_heads)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
