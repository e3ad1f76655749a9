"""Blocks that three or more architectures share."""

from graphsched.arch.blocks.attention import (
    AttentionConfig,
    Pattern,
    RopeConfig,
    SlidingConfig,
    attend,
    heads,
    qkv,
    rope_of,
    self_attention,
    side_by_side,
    slides,
    turned,
)
from graphsched.arch.blocks.ffn import gated_ffn, joined_ffn
from graphsched.arch.blocks.latent import LatentConfig, expanded, latent_parts, over_expanded
from graphsched.arch.blocks.linear import embed, head, linear, norm
from graphsched.arch.blocks.moe import (
    ExpertConfig,
    Routing,
    RoutingConfig,
    as_row,
    experts,
    experts_and_shared,
    feed_experts,
    router,
    weighted_sum,
)

__all__ = [
    "AttentionConfig",
    "ExpertConfig",
    "LatentConfig",
    "Pattern",
    "RopeConfig",
    "Routing",
    "RoutingConfig",
    "SlidingConfig",
    "as_row",
    "attend",
    "embed",
    "expanded",
    "experts",
    "experts_and_shared",
    "feed_experts",
    "gated_ffn",
    "head",
    "heads",
    "joined_ffn",
    "latent_parts",
    "linear",
    "norm",
    "over_expanded",
    "qkv",
    "rope_of",
    "router",
    "self_attention",
    "side_by_side",
    "slides",
    "turned",
    "weighted_sum",
]
