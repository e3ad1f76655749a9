"""Sparse attention: an indexer with keys of its own chooses the positions that attention reads."""

from dataclasses import dataclass

from graphsched.arch.blocks.attention import heads
from graphsched.arch.blocks.latent import Attend, LatentConfig, TurnedLatentConfig, latent_heads
from graphsched.arch.blocks.linear import linear
from graphsched.arch.blocks.moe import as_row
from graphsched.arch.config import Config, key
from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import Rope, layer_norm, lightning_indexer, rope, scale, sparse_attn
from graphsched.graph.tensor import Tensor

FEED_FORWARD = [f"ffn_{name}{end}" for name in ("gate", "up", "down") for end in ("", "_shexp")]
SCALED_OUTPUTS = (
    "attn_output",
    *FEED_FORWARD,
    "output",
)  # what files of DSA may scale: nothing of the latents


@dataclass(frozen=True, kw_only=True)
class IndexerConfig(Config):
    """Keys of an indexer."""

    index_heads: int = key("attention.indexer.head_count", low=1)
    index_dim: int = key("attention.indexer.key_length", low=1)
    top_k: int = key("attention.indexer.top_k", low=1)


@dataclass(frozen=True, kw_only=True)
class LatentIndexerConfig(IndexerConfig, TurnedLatentConfig):
    """Latent attention over what an indexer chooses (DSA); index_eps is that of the norm of its keys."""

    index_eps: float = 1e-6


def layer_normed(blk: Weights, x: Tensor, name: str, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) · w + b over the last dimension"""
    return layer_norm(x, eps=eps) * blk.sized(name, x.shape[-1]) + blk.sized(f"{name}.bias", x.shape[-1])


def chosen_by_indexer(
    c: LatentIndexerConfig, blk: Weights, x: Tensor, low: Tensor, inp: Inputs, turns: Rope
) -> Tensor:
    """Bits of the positions that each token sees: all, while there are no more than top_k. -> i32 [T, 1, words]

    low: queries of attention in their low rank, which are also the indexer's. turns: its rotary embedding.
    """
    n, d = c.index_heads, c.index_dim
    q = heads(linear(blk, "indexer.attn_q_b", low, n * d), n)
    k = as_row(layer_normed(blk, linear(blk, "indexer.attn_k", x, d), "indexer.k_norm", c.index_eps))
    w = scale(linear(blk, "indexer.proj", x, n), by=(n * d) ** -0.5)
    q, k = rope(q, inp.pos, rope=turns), rope(k, inp.pos, rope=turns)
    keys, cells = inp.cache_rows(blk, "cache_idx", k), inp.all_cells
    return lightning_indexer(q, keys, cells.where, cells.table, w, n_positions=inp.n_kv, top_k=c.top_k)


def over_chosen(chosen: Tensor, n_chosen: int, by: float) -> Attend:
    """Attention over chosen positions, of which a token has about n_chosen; `by` scales scores."""

    def attend(q: Tensor, k: Tensor, v: Tensor, where: Tensor, table: Tensor) -> Tensor:
        return sparse_attn(q, k, v, where, table, chosen, scale=by, n_chosen=n_chosen)

    return attend


def sparse_latent_attention(
    c: LatentConfig, blk: Weights, x: Tensor, low: Tensor, inp: Inputs, attend: Attend
) -> Tensor:
    """Latent attention with queries from a low rank. [T, D] -> [T, D]"""
    q = heads(linear(blk, "attn_q_b", low, c.n_head * c.head_dim), c.n_head)
    return linear(blk, "attn_output", latent_heads(c, blk, x, inp, q, attend), c.n_embd)
