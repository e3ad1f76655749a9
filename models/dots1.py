"""dots.llm1: Qwen3's attention; leading dense layers, experts as the keys say, with shared ones."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    RoutingConfig,
    embed,
    feed_forward,
    head,
    norm,
    normed_heads,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Dots1Config(AttentionConfig, RoutingConfig):
    gating: int = key("expert_gating_func", low=1, high=2)


@architecture("dots1", Dots1Config)
def dots1(c: Dots1Config, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, qk_norm=normed_heads)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
