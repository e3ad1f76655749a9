"""Sparse attention: an indexer chooses the positions that each token sees, and attention reads these only."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.ops.attention import any_blocks, cells_of, last_tokens, soft_max_of
from graphsched.graph.tensor import Tensor, TensorType, f32, i32
from graphsched.types import dtypes
from graphsched.types.extents import CELL_BLOCK

Chosen = NDArray[np.bool_]


def n_words(n_positions: int) -> int:
    """Words of 32 bits that have one for each of so many positions: one for each block of cells."""
    return -(-n_positions // CELL_BLOCK)


def as_words(chosen: Chosen) -> NDArray[np.int32]:
    """bool [..., 32 n] -> i32 [..., n]: position 32 w + i is bit i of word w."""
    packed = np.packbits(chosen, axis=-1, bitorder="little")
    return packed.view("<i4").astype(np.int32)


def as_bools(words: NDArray[np.int32]) -> Chosen:
    """i32 [..., n] -> bool [..., 32 n]"""
    raw = np.ascontiguousarray(words.astype("<i4")).view(np.uint8)
    return np.unpackbits(raw, axis=-1, bitorder="little").astype(bool)


def best_of(score: Array, n: int) -> Chosen:
    """Where the n highest of the scores are, the first of equals first."""
    chosen = np.zeros(len(score), bool)
    chosen[np.argsort(-score, kind="stable")[:n]] = True
    return chosen


def _require_where(name: str, q: Tensor, k: Tensor, where: Tensor, table: Tensor) -> None:
    require(len(q.shape) == len(k.shape) == 3, "{}: {}, {} need three dimensions", name, q, k)
    fits = where.shape == (q.shape[0], 3) and len(table.shape) == 1
    require(fits, "{}: {}, {} do not fit", name, where, table)


@op(
    Op.LIGHTNING_INDEXER,
    product=("k",),
    rate="f16",
    reads_cache="k",
    named_by_weight=False,
    label="indexer",
)
def lightning_indexer(
    q: Tensor,
    k: Tensor,
    where: Tensor,
    table: Tensor,
    w: Tensor | None = None,
    *,
    n_positions: int,
    top_k: int,
    size: int = 1,
    pooled: bool = False,
    tail: bool = True,
    local: int = 0,
    by_head: bool = False,
) -> TensorType:
    """Bits of the positions in the top_k best units of `size`: Σ_h w_h · relu(q_h · k), or q_h · k for each head

    i32 [tokens, 1 or heads, n_positions / 32]: position 32 w + i of a token's sequence is bit i of word w. A unit is as
    good as its best position; the last `local` units count as best. pooled: a unit has one key, in the cell of its last
    position; incomplete ones have none, and are chosen with `tail`. k: cells of one head, found by where and table as
    flash_attn_ext does. w [tokens, heads], absent: 1.
    """
    _require_where("lightning_indexer", q, k, where, table)
    fits = k.shape[1:] == (1, q.shape[2]) and (w is None or w.shape == q.shape[:2])
    require(fits, "lightning_indexer: {}, {} do not fit {}", k, w, q)
    return i32(q.shape[0], q.shape[1] if by_head else 1, n_words(n_positions))


def _units_of(position: int, score: Array, attrs: Mapping[str, Any]) -> Chosen:
    """What a token at a position sees [position + 1], by the scores of its units."""
    size, n = attrs["size"], position + 1
    units = best_of(score, attrs["top_k"])
    chosen = np.repeat(units, size)[:n]
    if attrs["pooled"]:
        return np.concatenate([chosen, np.full(n - len(chosen), attrs["tail"])])
    return chosen


def _scores(q: Array, keys: Array, w: Array, attrs: Mapping[str, Any]) -> Array:
    """Scores of units [groups, units], with keys of units or of positions."""
    products = q.astype(np.float64) @ keys.astype(np.float64).T  # [heads, keys]
    score = (
        products if attrs["by_head"] else (w[:, None] * np.maximum(products, 0)).sum(axis=0, keepdims=True)
    )
    if attrs["pooled"]:
        return score
    size, n = attrs["size"], -(-score.shape[1] // attrs["size"])
    padded = np.full((len(score), n * size), -np.inf)
    padded[:, : score.shape[1]] = score
    score = padded.reshape(len(score), n, size).max(axis=2)
    score[:, max(n - attrs["local"], 0) :] = np.inf
    return score


@lightning_indexer.reference
def _(q: Array, k: Array, where: Array, table: Array, w: Array | None = None, **attrs: Any) -> Array:
    attrs = {**lightning_indexer.defaults, **attrs}
    groups = q.shape[1] if attrs["by_head"] else 1
    chosen = np.zeros((len(q), groups, n_words(attrs["n_positions"]) * CELL_BLOCK), bool)
    for t, (_, position, first) in enumerate(where.tolist()):
        size = attrs["size"]
        ends = np.arange(size - 1, position + 1, size) if attrs["pooled"] else np.arange(position + 1)
        keys = k[cells_of(table, first, ends), 0]
        score = _scores(q[t], keys, np.ones(q.shape[1]) if w is None else w[t], attrs)
        for g in range(groups):
            chosen[t, g, : position + 1] = _units_of(position, score[g], attrs)
    return as_words(chosen)


@lightning_indexer.flops
def _(q: TensorType, k: TensorType, *_: TensorType, size: int = 1, pooled: bool = False, **attrs: Any) -> int:
    return 2 * q.numel * (int(k.shape[0]) // (size if pooled else 1))


lightning_indexer.draw(where=last_tokens, table=any_blocks)


@lightning_indexer.cases
def _() -> Iterator[Case]:
    for t in (dtypes.F32, dtypes.F16, dtypes.Q8_0):
        for n, blocks in ((1, 3), (7, 9)):
            k, cells = TensorType(t, (blocks * CELL_BLOCK, 1, 64)), (i32(n, 3), i32(blocks))
            length = blocks * CELL_BLOCK
            yield case(f32(n, 8, 64), k, *cells, f32(n, 8), n_positions=length, top_k=21)
    k, cells = f32(320, 1, 24), (i32(5, 3), i32(10))
    yield case(f32(5, 3, 24), k, *cells, n_positions=320, top_k=3, size=8, local=2, by_head=True)
    yield case(f32(5, 9, 24), k, *cells, f32(5, 9), n_positions=320, top_k=5, size=4, pooled=True)
    yield case(f32(5, 9, 24), k, *cells, n_positions=320, top_k=2, size=5, pooled=True, tail=False)
    yield case(f32(5, 9, 24), k, *cells, n_positions=500, top_k=1000)


@op(Op.SPARSE_ATTN, product=("k", "v"), rate="f16", reads_cache="k", named_by_weight=False, label="kqv")
def sparse_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    where: Tensor,
    table: Tensor,
    chosen: Tensor,
    *,
    scale: float,
    n_chosen: int,
) -> TensorType:
    """flash_attn_ext over the positions whose bits lightning_indexer has set, about n_chosen for each token"""
    _require_where("sparse_attn", q, k, where, table)
    fits = q.shape[2] == k.shape[2] and k.shape[:2] == v.shape[:2] and q.shape[1] % k.shape[1] == 0
    require(fits, "sparse_attn: {} and {} do not fit {}", k, v, q)
    groups = len(chosen.shape) == 3 and chosen.shape[0] == q.shape[0] and chosen.shape[1] in (1, k.shape[1])
    require(groups, "sparse_attn: {} does not fit {} KV heads", chosen, k.shape[1])
    return f32(*q.shape[:2], v.shape[2])


@sparse_attn.reference
def _(
    q: Array, k: Array, v: Array, where: Array, table: Array, chosen: Array, *, scale: float, n_chosen: int
) -> Array:
    group, out = q.shape[1] // k.shape[1], np.zeros((*q.shape[:2], v.shape[2]), np.float32)
    seen = np.repeat(as_bools(chosen), k.shape[1] // chosen.shape[1], axis=1)
    for t, (_, position, first) in enumerate(where.tolist()):
        for kv in range(k.shape[1]):
            cells = cells_of(table, first, np.flatnonzero(seen[t, kv, : position + 1]))
            if not len(cells):
                continue
            rows = slice(kv * group, (kv + 1) * group)
            score = q[t, rows].astype(np.float64) @ k[cells, kv].astype(np.float64).T * scale
            out[t, rows] = as_f32(soft_max_of(score) @ v[cells, kv])
    return out


@sparse_attn.flops
def _(q: TensorType, k: TensorType, v: TensorType, *_: TensorType, n_chosen: int, **attrs: Any) -> int:
    return 2 * int(q.shape[0]) * q.shape[1] * min(n_chosen, int(k.shape[0])) * (k.shape[2] + v.shape[2])


@sparse_attn.nbytes
def _(q: TensorType, k: TensorType, v: TensorType, *_: TensorType, n_chosen: int, **attrs: Any) -> int:
    read = min(int(q.shape[0]) * n_chosen, int(k.shape[0]))
    rows = k.shape[1] * (k.dtype.row_bytes(k.shape[2]) + v.dtype.row_bytes(v.shape[2]))
    return q.nbytes + f32(*q.shape[:2], v.shape[2]).nbytes + read * rows


def _any_bits(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """A third of all positions; none in some words, and of the last token."""
    shape = tuple(int(n) for n in types["chosen"].shape)
    bits = rng.random((*shape[:2], shape[2] * CELL_BLOCK)) < 1 / 3
    words = as_words(bits)
    words[..., ::3] = 0
    words[-1] = 0 if shape[0] > 1 else words[-1]
    return words


sparse_attn.draw(where=last_tokens, table=any_blocks, chosen=_any_bits)


@sparse_attn.cases
def _() -> Iterator[Case]:
    for t in (dtypes.F32, dtypes.F16, dtypes.Q8_0):
        for n, blocks in ((1, 4), (7, 9)):
            k, cells = TensorType(t, (blocks * CELL_BLOCK, 2, 64)), (i32(n, 3), i32(blocks))
            for groups in (1, 2):
                yield case(f32(n, 6, 64), k, k, *cells, i32(n, groups, blocks), scale=0.2, n_chosen=40)
        k, v = TensorType(t, (320, 1, 288)), TensorType(t, (320, 1, 256))  # latents
        yield case(f32(5, 6, 288), k, v, i32(5, 3), i32(10), i32(5, 1, 10), scale=0.1, n_chosen=40)
    k = f32(96, 2, 33)
    yield case(f32(3, 4, 33), k, k, i32(3, 3), i32(3), i32(3, 2, 3), scale=0.3, n_chosen=40)


@op(Op.COMPRESSED_ATTN, product=("k",), rate="f16", reads_cache="k", named_by_weight=False, label="kqv")
def compressed_attn(
    q: Tensor,
    k: Tensor,
    where: Tensor,
    table: Tensor,
    c: Tensor,
    c_where: Tensor,
    c_table: Tensor,
    sinks: Tensor,
    chosen: Tensor | None = None,
    *,
    scale: float,
    window: int,
    size: int,
    n_chosen: int,
) -> TensorType:
    """softmax(scale · q·rowᵀ) · row over the last `window` rows of k, a row of c for each complete unit, and a sink

    One row is key and value of all heads. That of a unit of `size` positions is in the cell of its last one; with
    `chosen` only units count whose bits are set, about n_chosen. k and c are found as in flash_attn_ext.
    """
    _require_where("compressed_attn", q, k, where, table)
    _require_where("compressed_attn", q, c, c_where, c_table)
    fits = k.shape[1:] == c.shape[1:] == (1, q.shape[2]) and sinks.shape == (q.shape[1],)
    require(fits, "compressed_attn: {}, {}, {} do not fit", k, c, sinks)
    return q.type


@compressed_attn.reference
def _(
    q: Array,
    k: Array,
    where: Array,
    table: Array,
    c: Array,
    c_where: Array,
    c_table: Array,
    sinks: Array,
    chosen: Array | None = None,
    *,
    scale: float,
    window: int,
    size: int,
    n_chosen: int,
) -> Array:
    out = np.empty(q.shape, np.float32)
    for t, (_, position, first) in enumerate(where.tolist()):
        near = k[cells_of(table, first, np.arange(max(position - window, -1) + 1, position + 1)), 0]
        ends = np.arange(size - 1, position + 1, size)
        if chosen is not None:
            ends = ends[as_bools(chosen)[t, 0, ends]]
        rows = np.concatenate([near, c[cells_of(c_table, int(c_where[t, 2]), ends), 0]]).astype(np.float64)
        score = np.concatenate([q[t].astype(np.float64) @ rows.T * scale, sinks[:, None]], axis=1)
        out[t] = as_f32(soft_max_of(score)[:, :-1] @ rows)
    return out


@compressed_attn.flops
def _(q: TensorType, k: TensorType, *_: TensorType, window: int, n_chosen: int, **attrs: Any) -> int:
    return 4 * q.numel * (window + n_chosen)


compressed_attn.draw(
    where=last_tokens,
    table=any_blocks,
    c_where=lambda types, rng: last_tokens({"where": types["c_where"], "table": types["c_table"]}, rng),
    c_table=lambda types, rng: any_blocks({"k": types["c"], "table": types["c_table"]}, rng),
    chosen=_any_bits,
)


@compressed_attn.cases
def _() -> Iterator[Case]:
    for t in (dtypes.F32, dtypes.F16, dtypes.Q8_0):
        for n, blocks, d in ((1, 9, 64), (5, 9, 96)):
            cells, near = TensorType(t, (blocks * CELL_BLOCK, 1, d)), (i32(n, 3), i32(blocks))
            given = f32(n, 4, d), cells, *near, cells, *near, f32(4)
            yield case(*given, i32(n, 1, blocks), scale=0.2, window=9, size=4, n_chosen=20)
            yield case(*given, scale=0.2, window=40, size=70, n_chosen=4)


@op(Op.POOL_ROWS, reads_cache="x", named_by_weight=False, label="pooled")
def pool_rows(
    x: Tensor,
    where: Tensor,
    table: Tensor,
    gates: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    size: int,
    overlap: bool = False,
) -> TensorType:
    """Σ_i p_i · x[i] over a token's unit of `size` positions, up to its own; p = softmax_i(gates[i] + bias[i])

    Channel by channel, x and gates in the cells of these positions, bias [size, width]. Without gates it is their mean.
    overlap: the positions of the unit in front belong to it, too; of these the first half of the channels counts, of
    the unit's own the second half.
    """
    require(len(x.shape) == 3 and x.shape[1] == 1, "pool_rows: {} has more than one head", x)
    fits = (gates is None) == (bias is None) and (gates is None or gates.shape == x.shape)
    require(fits, "pool_rows: {}, {} do not fit {}", gates, bias, x)
    require(bias is None or bias.shape == (size, x.shape[2]), "pool_rows: {} does not fit {}", bias, x)
    require(len(where.shape) == 2 and len(table.shape) == 1, "pool_rows: {}, {} do not fit", where, table)
    return f32(where.shape[0], x.shape[2] // (1 + overlap))


@pool_rows.reference
def _(
    x: Array,
    where: Array,
    table: Array,
    gates: Array | None = None,
    bias: Array | None = None,
    *,
    size: int,
    overlap: bool = False,
) -> Array:
    d = x.shape[2] // (1 + overlap)
    out = np.empty((len(where), d), np.float32)
    for t, (_, position, first) in enumerate(where.tolist()):
        begin = position // size * size
        before = np.arange(max(begin - size, 0) if overlap else begin, begin)
        cells = cells_of(table, first, np.concatenate([before, np.arange(begin, position + 1)]))
        half = np.arange(d) + np.where(np.arange(len(cells)) < len(before), 0, d * overlap)[:, None]
        score = np.zeros((len(cells), 1))
        if gates is not None and bias is not None:
            places = np.concatenate([before % size, np.arange(position + 1 - begin)])
            score = np.take_along_axis(gates[cells, 0].astype(np.float64) + bias[places], half, axis=1)
        p = np.exp(score - score.max(axis=0))
        out[t] = as_f32((p / p.sum(axis=0) * np.take_along_axis(x[cells, 0], half, axis=1)).sum(axis=0))
    return out


@pool_rows.flops
def _(x: TensorType, where: TensorType, *_: TensorType, size: int, overlap: bool = False) -> int:
    return 5 * int(where.shape[0]) * size * x.shape[2]


@pool_rows.nbytes
def _(
    x: TensorType, where: TensorType, table: TensorType, *more: TensorType, size: int, overlap: bool = False
) -> int:
    row = x.dtype.row_bytes(x.shape[2]) * (2 if more else 1)
    return int(where.shape[0]) * (size * row + 4 * x.shape[2])


pool_rows.draw(where=last_tokens, table=lambda types, rng: any_blocks({**types, "k": types["x"]}, rng))


@pool_rows.cases
def _() -> Iterator[Case]:
    for t in (dtypes.F32, dtypes.F16, dtypes.Q8_0):
        for n, size, d in ((1, 4, 64), (9, 4, 64), (5, 3, 32)):
            rows, cells = TensorType(t, (160, 1, d)), (i32(n, 3), i32(5))
            yield case(rows, *cells, size=size)
            yield case(rows, *cells, rows, f32(size, d), size=size)
            yield case(rows, *cells, rows, f32(size, d), size=size, overlap=True)
