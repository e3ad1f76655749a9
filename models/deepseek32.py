"""DeepSeek-V3.2: V3 with sparse attention; in each layer an indexer chooses what the tokens see."""

from dataclasses import dataclass, replace

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    SCALED_OUTPUTS,
    LatentIndexerConfig,
    RoutingConfig,
    chosen_by_indexer,
    embed,
    feed_forward,
    head,
    latent_halves,
    low_queries,
    norm,
    over_chosen,
    sparse_latent_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class DeepSeek32Config(LatentIndexerConfig, RoutingConfig):
    pass


@architecture("deepseek32", DeepSeek32Config, derive=latent_halves, scaled=SCALED_OUTPUTS)
def deepseek32(c: DeepSeek32Config, w: Weights, inp: Inputs) -> Tensor:
    turns = replace(c.rope, mode="neox")  # the indexer's; attention rotates neighbours
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        h = norm(c, x, blk, "attn_norm")
        low = low_queries(c, blk, h)
        attend = over_chosen(chosen_by_indexer(c, blk, h, low, inp, turns), c.top_k, c.scale)
        x = x + sparse_latent_attention(c, blk, h, low, inp, attend)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
