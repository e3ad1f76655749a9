"""DeepSeek-V4: windows beside rows that stand for 4 or 128 positions each, an indexer, hyper-connections."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    IndexerConfig,
    ManifoldConfig,
    RoutingConfig,
    as_row,
    chosen_units,
    clamped_swiglu,
    compressed_rows,
    embed,
    experts,
    gated_ffn,
    head,
    heads,
    linear,
    low_queries,
    manifold,
    merged,
    norm,
    rope_of,
    rotated_last,
    side_by_side,
)
from graphsched.ops import Rope, compressed_attn, flash_attn_ext, mul_mat, repeat, reshape, rms_norm, scale
from graphsched.tensor import Tensor

INDEXED = 4  # positions of a row that an indexer may choose; such rows look at those of the one in front, too


@dataclass(frozen=True, kw_only=True)
class DeepSeek4Config(AttentionConfig, IndexerConfig, ManifoldConfig, RoutingConfig):
    window: int = key("attention.sliding_window", low=1)
    ratio: int = key("attention.compress_ratios", 0, per_layer=True)  # positions of a row; 0: no rows
    base_far: float = key("attention.compress_rope_freq_base", lambda c: c.rope_base, low=1)
    n_out: int = key("attention.output_group_count", low=1)
    out_rank: int = key("attention.output_lora_rank", low=1)
    n_hash: int = key("hash_layer_count", 0)
    gating: int = key("expert_gating_func", low=4, high=4)
    limit: float = key("swiglu_clamp_exp", per_layer=True)
    limit_shared: float = key("swiglu_clamp_shexp", lambda c: c.limit, per_layer=True)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if self.n_hash:
            yield "n_hash", "0, for experts by a table of tokens are not known here,"
        if self.n_head % self.n_out:
            yield "n_out", f"a divisor of the {self.n_head} heads"

    @property
    def turns(self) -> Rope:
        """The rotary embedding of a layer: stretched where rows reach far."""
        if not self.ratio:
            return Rope(self.rope_dim, self.rope_base, "norm")
        return replace(rope_of(self, "norm", self.base_far), magnitude=1.0)


@architecture("deepseek4", DeepSeek4Config)
def deepseek4(c: DeepSeek4Config, w: Weights, inp: Inputs) -> Tensor:
    x = repeat(as_row(embed(c, w, inp)), n=c.n_streams)  # [T, N, D]
    for blk in w.blk[: c.n_run]:
        own = c.at(blk.layer)
        x = manifold(c, blk, "attn", x, partial(attention, own, blk, inp))
        x = manifold(c, blk, "ffn", x, partial(feed_forward, own, blk))
    return head(c, w, merged(c, w, x))  # [T, V]


def attention(c: DeepSeek4Config, blk: Weights, inp: Inputs, row: Tensor) -> Tensor:
    """What heads see is rotated back; groups of heads share the first matrix of the output. [T, D] -> [T, D]"""
    x, d, held = norm(c, row, blk, "attn_norm"), c.head_dim, inp.cells_of(window=c.window)
    low, sinks = low_queries(c, blk, x), blk.sized("attn_sinks", c.n_head)
    q = rms_norm(heads(linear(blk, "attn_q_b", low, c.n_head * d), c.n_head), eps=c.rms_eps)
    q, kv = (
        rotated_last(c.turns, q, inp),
        as_row(norm(c, linear(blk, "attn_kv", x, d), blk, "attn_kv_a_norm")),
    )
    rows, by = inp.cache_rows(blk, "cache_k", rotated_last(c.turns, kv, inp), held), d**-0.5
    near = held.where, held.table
    if c.ratio:
        far = rows_far(c, blk, x, inp, "attn_compressor"), inp.all_cells.where, inp.all_cells.table
        bits = (chosen_rows(c, blk, x, low, inp),) if c.ratio == INDEXED else ()
        n = c.top_k if bits else inp.n_kv // c.ratio
        ends = partial(compressed_attn, scale=by, window=c.window, size=c.ratio, n_chosen=n)
        out = ends(q, rows, *near, *far, sinks, *bits)
    else:
        out = flash_attn_ext(q, rows, rows, *near, sinks, scale=by, window=c.window)
    out = rotated_last(replace(c.turns, back=True), out, inp)
    grouped = reshape(out, shape=(x.shape[0], c.n_out, c.n_head * d // c.n_out))
    low_out = mul_mat(blk.sized("attn_output_a", c.n_out, c.out_rank, grouped.shape[2]), grouped)
    return linear(blk, "attn_output_b", side_by_side(low_out), c.n_embd)


def rows_far(c: DeepSeek4Config, blk: Weights, x: Tensor, inp: Inputs, name: str) -> Tensor:
    """The cache of rows that stand for c.ratio positions each; sums look back as far as the window, or further."""
    overlap = c.ratio == INDEXED
    held = inp.cells_of(window=c.window if c.ratio * (1 + overlap) <= c.window else 0)
    return compressed_rows(c, blk, x, inp, name, c.turns, size=c.ratio, overlap=overlap, held=held)


def chosen_rows(c: DeepSeek4Config, blk: Weights, x: Tensor, low: Tensor, inp: Inputs) -> Tensor:
    """Bits of the rows that the indexer chooses by compressed keys of its own. -> i32 [T, 1, words]"""
    n, d = c.index_heads, c.index_dim
    keys = rows_far(c, blk, x, inp, "indexer_compressor")
    q = rotated_last(c.turns, heads(linear(blk, "indexer.attn_q_b", low, n * d), n), inp)
    w = scale(linear(blk, "indexer.proj", x, n), by=(n * d) ** -0.5)
    return chosen_units(q, keys, w, inp, top_k=c.top_k, size=c.ratio, tail=False)


def feed_forward(c: DeepSeek4Config, blk: Weights, row: Tensor) -> Tensor:
    """Experts and a shared one, with clamped gates. [T, D] -> [T, D]"""
    x = norm(c, row, blk, "ffn_norm")
    routed = experts(c.routing, blk, x, clamped_swiglu(c.limit))
    return routed + gated_ffn(blk, x, "_shexp", clamped_swiglu(c.limit_shared))
