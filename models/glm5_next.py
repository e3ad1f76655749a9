"""GLM-5 Next: Kimi Linear inside hyper-connections; latent attention over pools that an indexer chooses."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Attend,
    ChannelDeltaConfig,
    IndexerConfig,
    LatentConfig,
    ManifoldConfig,
    RoutingConfig,
    as_row,
    channel_delta_layer,
    chosen_units,
    clamped_swiglu,
    embed,
    experts,
    gated_ffn,
    head,
    heads,
    latent_halves,
    layer_normed,
    linear,
    low_queries,
    low_rank_forgotten,
    manifold,
    norm,
    over_chosen,
    sparse_latent_attention,
)
from graphsched.ops import multi_add, pool_rows, repeat, scale
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Glm5NextConfig(ChannelDeltaConfig, LatentConfig, IndexerConfig, ManifoldConfig, RoutingConfig):
    n_head_kv: int = key("attention.head_count_kv", per_layer=True)
    rope_dim: int = key("rope.dimension_count", 0, high=0)
    rope: None = None
    l2_eps: float = 1e-6
    index_eps: float = key("attention.layer_norm_epsilon", 0.0)
    pool: int = key("attention.indexer.kpool", low=2)
    with_tail: bool = key("attention.indexer.kpool_select_tail", True)
    indexed: int = key("attention.indexer.types", 1, high=1, per_layer=True)
    bound: float = key("kda.gate_lower_bound", 0.0, low=-1e6, high=0)
    gating: int = key("expert_gating_func", 2, low=1, high=2)
    limit: float = key("swiglu_clamp_exp", 0.0, per_layer=True)
    limit_shared: float = key("swiglu_clamp_shexp", lambda c: c.limit, per_layer=True)  # of dense layers, too

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if self.top_k % self.pool:
            yield "pool", f"a divisor of the {self.top_k} positions that are chosen"


@architecture("glm5-next", Glm5NextConfig, derive=latent_halves, scaled=())
def glm5_next(c: Glm5NextConfig, w: Weights, inp: Inputs) -> Tensor:
    x = repeat(as_row(embed(c, w, inp)), n=c.n_streams)  # [T, N, D]
    over: list[Attend] = []  # attention over what the last indexer has chosen
    for blk in w.blk[: c.n_run]:
        own = c.at(blk.layer)
        mixer = (
            partial(sparse_attention, own, blk, inp, over)
            if own.n_head_kv
            else partial(delta_layer, own, blk, inp)
        )
        x = manifold(c, blk, "attn", x, mixer)
        x = manifold(c, blk, "ffn", x, partial(feed_forward, own, blk))
    return head(c, w, scale(multi_add(x), by=1.0 / c.n_streams), tied=False)  # [T, V]


def delta_layer(c: Glm5NextConfig, blk: Weights, inp: Inputs, row: Tensor) -> Tensor:
    """[T, D] -> [T, D]"""
    x = norm(c, row, blk, "attn_norm")
    gate = linear(blk, "ssm_g_b", linear(blk, "ssm_g_a", x), c.n_head * c.kda_dim)
    return channel_delta_layer(c, blk, x, inp, low_rank_forgotten(c, blk, x, c.bound), gate)


def sparse_attention(c: Glm5NextConfig, blk: Weights, inp: Inputs, over: list[Attend], row: Tensor) -> Tensor:
    """Latent attention over what the layer's indexer chooses, or has been chosen before. [T, D] -> [T, D]"""
    x = norm(c, row, blk, "attn_norm")
    low = low_queries(c, blk, x)
    if c.indexed:
        over[:] = [over_chosen(chosen_pools(c, blk, x, low, inp), c.top_k + c.pool - 1, c.scale)]
    return sparse_latent_attention(c, blk, x, low, inp, over[0])


def chosen_pools(c: Glm5NextConfig, blk: Weights, x: Tensor, low: Tensor, inp: Inputs) -> Tensor:
    """A pool's key is a sum of its positions' keys, gated channel by channel. -> bits i32 [T, 1, words]"""
    n, d, cells = c.index_heads, c.index_dim, inp.all_cells
    k = layer_normed(blk, linear(blk, "indexer.attn_k", x, d), "indexer.k_norm", c.index_eps)
    keys = inp.cache_rows(blk, "cache_idx", as_row(k))
    gates = inp.cache_rows(blk, "cache_gate", as_row(linear(blk, "indexer_compressor_gate", x, d)))
    ape = blk.sized("indexer_compressor_ape", c.pool, d)
    pooled = pool_rows(keys, cells.where, cells.table, gates, ape, size=c.pool)
    pools = inp.cache_rows(blk, "cache_pool", as_row(pooled))
    q = heads(linear(blk, "indexer.attn_q_b", low, n * d), n)
    w = scale(linear(blk, "indexer.proj", x, n), by=(n * d) ** -0.5)
    return chosen_units(q, pools, w, inp, top_k=c.top_k // c.pool, size=c.pool, tail=c.with_tail)


def feed_forward(c: Glm5NextConfig, blk: Weights, row: Tensor) -> Tensor:
    """A dense layer, or experts and a shared one, with clamped gates. [T, D] -> [T, D]"""
    x = norm(c, row, blk, "ffn_norm")
    shared = clamped_swiglu(c.limit_shared)
    if "ffn_gate_inp" not in blk:
        return gated_ffn(blk, x, activation=shared)
    return experts(c.routing, blk, x, clamped_swiglu(c.limit)) + gated_ffn(blk, x, "_shexp", shared)
