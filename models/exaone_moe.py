"""EXAONE MoE (K-EXAONE): Qwen3's attention with windows, full layers do not rotate; experts with a shared one."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    RoutingConfig,
    SlidingConfig,
    embed,
    feed_forward,
    head,
    norm,
    normed_heads,
    rope_factors,
    rope_of,
    self_attention,
    slides,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class ExaoneMoeConfig(SlidingConfig, RoutingConfig):
    window: int = key("attention.sliding_window", low=1)
    pattern: Pattern = key("attention.sliding_window_pattern", 4, low=1)
    gating: int = key("expert_gating_func", low=1, high=2)


@architecture("exaone-moe", ExaoneMoeConfig)
def exaone_moe(c: ExaoneMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "neox"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        seen = {"rope": rope, "window": c.window} if slides(c, blk) else {"rope": None}
        h = norm(c, x, blk, "attn_norm")
        x = x + self_attention(c, blk, h, inp, factors=factors, qk_norm=normed_heads, **seen)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
