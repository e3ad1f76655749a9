"""MiniMax-M3: per head of keys, an indexer chooses blocks of positions that its queries see; clamped activations."""

from collections.abc import Iterator
from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    IndexerConfig,
    RoutingConfig,
    embed,
    feed_forward,
    head,
    heads,
    linear,
    norm,
    normed_heads,
    over_chosen,
    qkv,
    rope_of,
    rotated,
    self_attention,
    side_by_side,
)
from graphsched.ops import lightning_indexer, swiglu_oai
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class MiniMaxM3Config(AttentionConfig, IndexerConfig, RoutingConfig):
    block_size: int = key("attention.indexer.block_size", low=1)
    local_blocks: int = key("attention.indexer.local_blocks")
    gating: int = key("expert_gating_func", low=1, high=2)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if self.index_heads != self.n_head_kv:
            yield "index_heads", f"as many as the {self.n_head_kv} key and value heads"


@architecture("minimax-m3", MiniMaxM3Config)
def minimax_m3(c: MiniMaxM3Config, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        h = norm(c, x, blk, "attn_norm")
        if "indexer.q_proj" in blk:
            x = x + sparse_attention(c, blk, h, inp)
        else:
            x = x + self_attention(c, blk, h, inp, rope, qk_norm=normed_heads)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"), swiglu_oai)
    return head(c, w, x)  # [T, V]


def sparse_attention(c: MiniMaxM3Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Normed, rotated heads over the blocks that the indexer chooses for each head of keys. [T, D] -> [T, D]"""
    rope, cells = rope_of(c, "neox"), inp.all_cells
    q, k, v = qkv(c, blk, x)
    q, k = rotated(rope, *normed_heads(c, blk, q, k), inp)
    keys, values = inp.cache(blk, k, v)
    n_chosen = c.top_k * c.block_size
    attend = over_chosen(chosen_blocks(c, blk, x, inp), n_chosen, c.head_dim**-0.5)
    out = side_by_side(attend(q, keys, values, cells.where, cells.table))
    return linear(blk, "attn_output", out, c.n_embd)


def chosen_blocks(c: MiniMaxM3Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """A block is as good as the best of its keys, the token's own and those in front of it are best. -> bits"""
    q = heads(linear(blk, "indexer.q_proj", x, c.index_heads * c.index_dim), c.index_heads)
    k = heads(linear(blk, "indexer.k_proj", x, c.index_dim), 1)
    q, k = norm(c, q, blk, "indexer.q_norm"), norm(c, k, blk, "indexer.k_norm")
    q, k = rotated(rope_of(c, "neox"), q, k, inp)
    keys, cells = inp.cache_rows(blk, "cache_idx", k), inp.all_cells
    return lightning_indexer(
        q,
        keys,
        cells.where,
        cells.table,
        n_positions=inp.n_kv,
        top_k=c.top_k,
        size=c.block_size,
        local=c.local_blocks,
        by_head=True,
    )
