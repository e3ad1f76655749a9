"""Command A MoE: Command R7B whose layers behind the first have experts; their sum with the shared one is halved."""

from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    RoutingConfig,
    SlidingConfig,
    embed,
    experts,
    gated_ffn,
    head,
    norm,
    rope_factors,
    rope_of,
    scaled,
    self_attention,
    slides,
)
from graphsched.ops import scale
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Cohere2MoeConfig(SlidingConfig, RoutingConfig):
    rms_eps: float = key("attention.layer_norm_rms_epsilon", 0.0)
    ln_eps: float = key("attention.layer_norm_epsilon", 0.0)
    window: int = key("attention.sliding_window", low=1)
    pattern: Pattern = key("attention.sliding_window_pattern", 4, low=1)
    n_dense: int = key("leading_dense_block_count", 0)
    gating: int = key("expert_gating_func", 2, low=1, high=2)
    logit_scale: float = key("logit_scale")


@architecture("cohere2moe", Cohere2MoeConfig, scaled=EVERY_SCALE)
def cohere2moe(c: Cohere2MoeConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "norm"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        near, is_dense = slides(c, blk, full_first=True), blk.layer < c.n_dense
        turned, window = rope if near or is_dense else None, c.window if near else 0
        h = norm(c, x, blk, "attn_norm")
        mixed = gated_ffn(blk, h) if is_dense else mean_with_shared(c, blk, h)
        x = x + self_attention(c, blk, h, inp, turned, factors, window=window) + mixed
    return scaled(head(c, w, x), c.logit_scale)  # [T, V]


def mean_with_shared(c: Cohere2MoeConfig, blk: Weights, x: Tensor) -> Tensor:
    """The mean of what the chosen experts and the shared one give, if there is one. [T, D] -> [T, D]"""
    chosen = experts(c.routing, blk, x)
    return scale(chosen + gated_ffn(blk, x, "_shexp"), by=0.5) if "ffn_up_shexp" in blk else chosen
