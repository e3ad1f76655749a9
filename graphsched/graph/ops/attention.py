"""Attention over the KV cache, and softmax."""

from collections.abc import Iterator, Mapping

import numpy as np

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.tensor import Tensor, TensorType, f32, i32
from graphsched.types import dtypes
from graphsched.types.extents import CELL_BLOCK


def visible(where: Array, cells: Array, window: int = 0, chunk: int = 0) -> Array:
    """bool [tokens, cells]: which cells a token sees.

    where [tokens, 3] and cells [cells, 2] begin with (slot of the sequence, position); a free cell has slot -1. A token
    sees its own sequence up to its own position: the last `window` positions, and nothing before its own `chunk`.
    """
    seq, pos = where[:, :1], where[:, 1:2]
    return (cells[:, 0] == seq) & (cells[:, 1] <= pos) & (cells[:, 1] > last_unseen(pos, window, chunk))


def last_unseen(pos: Array, window: int, chunk: int) -> Array:
    """The position up to which tokens at these positions see nothing; -1 if there is none."""
    oldest = pos - window if window else np.full_like(pos, -1)
    return np.maximum(np.maximum(oldest, -1), pos // chunk * chunk - 1 if chunk else -1)


def slopes(max_bias: float, n_head: int) -> Array:
    """ALiBi's slope of each head: powers of 2 from 2^(-max_bias / n) to 2^-max_bias, n the power of 2 up to n_head.

    Heads behind the n-th have those in between, from the first on.
    """
    n = 1 << n_head.bit_length() - 1
    h = np.arange(n_head)
    return np.exp2(-max_bias * np.where(h < n, h + 1, h - n + 0.5) / n)


def biases(max_bias: float, where: Array, cells: Array, n_head: int) -> Array | float:
    """What is added to scores [heads, tokens, cells]: slopes times distances, which are below 0; 0 without ALiBi."""
    if not max_bias:
        return 0.0
    distance = cells[:, 1] - where[:, 1:2].astype(np.float64)
    return slopes(max_bias, n_head)[:, None, None] * distance


def cells_of(table: Array, first_entry: int, positions: Array) -> Array:
    """The cells of positions of a sequence whose blocks a table names from an entry on."""
    return table[first_entry + positions // CELL_BLOCK] * CELL_BLOCK + positions % CELL_BLOCK


def n_sequences(n_tokens: int, n_blocks: int) -> int:
    """How many sequences the tokens of a case are of."""
    return min(n_tokens, 3, max(n_blocks // 2, 1))


def last_tokens(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """Tokens that are the last ones of sequences which share out the table's blocks; their last blocks are not full."""
    n, blocks = int(types["where"].shape[0]), int(types["table"].shape[0])
    parts = n_sequences(n, blocks)
    rows = []
    for s, tokens in enumerate(np.array_split(np.arange(n), parts)):
        first, end = blocks * s // parts, blocks * (s + 1) // parts
        last = (end - first) * CELL_BLOCK - 3 - 5 * s
        positions = np.arange(last - len(tokens), last)
        rows.append(np.stack([np.full(len(tokens), s), positions, np.full(len(tokens), first)], axis=1))
    return np.concatenate(rows).astype(np.int32)


def any_blocks(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """A table that names blocks of the pool in any order."""
    n = types["k"].shape[0] // CELL_BLOCK
    return np.resize(rng.permutation(n), int(types["table"].shape[0])).astype(np.int32)


def every_position(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """Cells that each hold their own position of sequence 0, but for a free one."""
    n = types["cells"].shape[0]
    cells = np.stack([np.zeros(n), np.arange(n)], axis=1).astype(np.int32)
    cells[n // 2] = (-1, 0)
    return cells


def tokens_behind(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    """Tokens of sequence 0 that are the last ones in these cells."""
    n, n_cells = types["where"].shape[0], types["cells"].shape[0]
    return np.stack([np.zeros(n), np.arange(n_cells - n, n_cells), np.zeros(n)], axis=1).astype(np.int32)


@op(
    Op.FLASH_ATTN_EXT,
    product=("k", "v"),
    rate="f16",
    reads_cache="k",
    named_by_weight=False,
    label="fa",
)
def flash_attn_ext(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    where: Tensor,
    table: Tensor,
    sinks: Tensor | None = None,
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    chunk: int = 0,
    max_bias: float = 0.0,
) -> TensorType:
    """softmax(scale · q·kᵀ) · v per head over the positions that a token sees

    k and v are cells of a pool. where [tokens, 3] = (slot of the sequence, position, first entry of its table):
    position p is in cell table[first + p // CELL_BLOCK] · CELL_BLOCK + p % CELL_BLOCK. A token sees positions up to its
    own: the last `window` of them, and nothing before its own `chunk`. With max_bias (ALiBi) a head's scores fall with
    the distance, by `slopes`.
    """
    require(not (softcap and max_bias), "flash_attn_ext: scores that are capped have no bias")
    require(
        len(q.shape) == len(k.shape) == len(v.shape) == 3,
        "flash_attn_ext: {}, {}, {} need three dimensions",
        q,
        k,
        v,
    )
    require(
        q.shape[2] == k.shape[2] and k.shape[:2] == v.shape[:2],
        "flash_attn_ext: {} and {} do not fit {}",
        k,
        v,
        q,
    )
    require(
        q.shape[1] % k.shape[1] == 0,
        "flash_attn_ext: {} heads do not share {} KV heads",
        q.shape[1],
        k.shape[1],
    )
    require(
        where.shape == (q.shape[0], 3) and len(table.shape) == 1,
        "flash_attn_ext: {}, {} do not fit",
        where,
        table,
    )
    return f32(*q.shape[:2], v.shape[2])


@flash_attn_ext.reference
def _(
    q: Array,
    k: Array,
    v: Array,
    where: Array,
    table: Array,
    sinks: Array | None = None,
    *,
    scale: float,
    softcap: float = 0.0,
    window: int = 0,
    chunk: int = 0,
    max_bias: float = 0.0,
) -> Array:
    group, out = q.shape[1] // k.shape[1], np.zeros((*q.shape[:2], v.shape[2]), np.float32)
    for sequence in np.unique(where[:, [0, 2]], axis=0):
        rows = np.flatnonzero((where[:, [0, 2]] == sequence).all(axis=1))
        pos = where[rows, 1:2]
        seen = np.arange(int(last_unseen(pos, window, chunk).min()) + 1, int(pos.max()) + 1)
        cells = cells_of(table, int(sequence[1]), seen)
        keys, values = (np.repeat(x[cells], group, axis=1) for x in (k, v))
        # In float64: the reference is what kernels are judged by, so its own rounding must not count.
        score = np.einsum("thd,chd->htc", q[rows], keys, dtype=np.float64) * scale
        if softcap:
            score = softcap * np.tanh(score / softcap)
        own = np.stack([np.full(len(seen), sequence[0]), seen], axis=1)
        score += biases(max_bias, where[rows], own, len(score))
        p = _weights(score, visible(where[rows], own, window, chunk), sinks)
        out[rows] = as_f32(np.einsum("htc,chd->thd", p, values))
    return out


def soft_max_of(score: Array) -> Array:
    """softmax over the last dimension"""
    p = np.exp(score - score.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def _weights(score: Array, seen: Array, sinks: Array | None) -> Array:
    """softmax of scores [heads, tokens, cells] over the cells seen; a head's sink takes its share and gives nothing."""
    score = np.where(seen, score, -np.inf)
    top = score.max(axis=-1, keepdims=True)
    if sinks is not None:
        top = np.maximum(top, sinks[:, None, None])
    top = np.where(np.isfinite(top), top, 0.0)
    p = np.exp(score - top)
    total = p.sum(axis=-1, keepdims=True)
    if sinks is not None:
        total += np.exp(sinks[:, None, None] - top)
    return p / np.maximum(total, 1e-300)


@flash_attn_ext.flops
def _(q: TensorType, k: TensorType, v: TensorType, *_: TensorType, **attrs: float) -> int:
    return 2 * int(q.shape[0]) * q.shape[1] * int(k.shape[0]) * (k.shape[2] + v.shape[2])


flash_attn_ext.draw(where=last_tokens, table=any_blocks)


@flash_attn_ext.cases
def _() -> Iterator[Case]:
    def over(n_tokens: int, n_blocks: int) -> tuple[TensorType, TensorType]:
        return i32(n_tokens, 3), i32(n_blocks)

    for t in dtypes.KV_TYPES:
        for n_tokens, n_blocks in ((1, 1), (1, 10), (7, 2), (33, 9)):
            k = TensorType(t, (n_blocks * CELL_BLOCK, 2, 32))
            yield case(f32(n_tokens, 6, 32), k, k, *over(n_tokens, n_blocks), scale=0.2)
    for d in (8, 24, 33, 48):
        k = f32(2 * CELL_BLOCK, 4, d)
        yield case(f32(3, 8, d), k, k, *over(3, 1), scale=0.3)
    k, v = TensorType(dtypes.F16, (128, 2, 64)), TensorType(dtypes.F16, (128, 2, 32))
    yield case(f32(5, 4, 64), k, v, *over(5, 4), scale=0.2)
    yield case(f32(9, 2, 64), k, v, *over(9, 6), scale=0.2)  # sequences have blocks in common
    for t in dtypes.KV_TYPES:  # latents: one KV head, values narrower than keys
        for n_tokens, n_heads in ((1, 16), (1, 64), (9, 6)):
            k, v = TensorType(t, (320, 1, 288)), TensorType(t, (320, 1, 256))
            yield case(f32(n_tokens, n_heads, 288), k, v, *over(n_tokens, 10), scale=0.1)
    for t in (dtypes.F16, dtypes.Q8_0, dtypes.Q5_1):  # more cells than one thread takes
        k = TensorType(t, (66 * CELL_BLOCK, 1, 64))
        yield case(f32(1, 4, 64), k, k, *over(1, 66), scale=0.2)
        yield case(f32(1, 6, 64), k, k, *over(1, 66), f32(6), scale=0.2, window=1500)
    k = TensorType(dtypes.F16, (96, 2, 64))
    yield case(f32(5, 4, 64), k, k, *over(5, 3), f32(4), scale=0.2, softcap=5.0, window=9)
    yield case(f32(1, 4, 64), k, k, *over(1, 3), f32(4), scale=0.2, softcap=5.0, window=9)
    yield case(f32(20, 4, 64), k, k, *over(20, 3), scale=0.2, chunk=16)
    for n_tokens in (1, 20):  # ALiBi
        yield case(f32(n_tokens, 4, 64), k, k, *over(n_tokens, 3), scale=0.2, max_bias=8.0)
        yield case(f32(n_tokens, 6, 64), k, k, *over(n_tokens, 3), scale=0.2, max_bias=4.0, window=40)


def _require_mask(x: Tensor, where: Tensor | None, cells: Tensor | None) -> None:
    fits = len(x.shape) == 3 and where is not None and cells is not None
    require(
        fits and where.shape == (x.shape[0], 3) and cells.shape == (x.shape[2], 2),  # type: ignore[union-attr]
        "soft_max: {}, {} do not fit {}",
        where,
        cells,
        x,
    )


@op(Op.SOFT_MAX, rowwise=True, named_by_weight=False)
def soft_max(
    x: Tensor,
    where: Tensor | None = None,
    cells: Tensor | None = None,
    sinks: Tensor | None = None,
    *,
    scale: float = 1.0,
    window: int = 0,
    chunk: int = 0,
    max_bias: float = 0.0,
) -> TensorType:
    """softmax(scale · x) over the last dimension; of scores [tokens, heads, cells] over the cells that a token sees

    max_bias: as in flash_attn_ext.
    """
    if where is not None or cells is not None:
        _require_mask(x, where, cells)
    return x.type


@soft_max.reference
def _(
    x: Array,
    where: Array | None = None,
    cells: Array | None = None,
    sinks: Array | None = None,
    *,
    scale: float = 1.0,
    window: int = 0,
    chunk: int = 0,
    max_bias: float = 0.0,
) -> Array:
    score = x.astype(np.float64) * scale
    if where is None or cells is None:
        return as_f32(soft_max_of(score))
    score = score.swapaxes(0, 1) + biases(max_bias, where, cells, score.shape[1])
    return as_f32(_weights(score, visible(where, cells, window, chunk), sinks).swapaxes(0, 1))


@soft_max.flops
def _(x: TensorType, *_: TensorType, **attrs: float) -> int:
    return 4 * x.numel


soft_max.draw(where=tokens_behind, cells=every_position)


@soft_max.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 8))
    yield case(f32(5, 33))
    yield case(f32(1, 256))
    for n_tokens, n_cells in ((1, 5), (1, 300), (7, 40), (5, 33)):
        mask = i32(n_tokens, 3), i32(n_cells, 2)
        yield case(f32(n_tokens, 4, n_cells), *mask, scale=0.3)
        yield case(f32(n_tokens, 4, n_cells), *mask, f32(4), scale=0.3, window=9)
    yield case(f32(5, 4, 70), i32(5, 3), i32(70, 2), scale=0.3, chunk=16)
    yield case(f32(5, 6, 70), i32(5, 3), i32(70, 2), scale=0.3, max_bias=8.0)


@op(Op.SOFT_CAP_MAX, rowwise=True, named_by_weight=False)
def soft_cap_max(
    x: Tensor,
    where: Tensor,
    cells: Tensor,
    sinks: Tensor | None = None,
    *,
    cap: float,
    scale: float = 1.0,
    window: int = 0,
    chunk: int = 0,
) -> TensorType:
    """soft_max of cap · tanh(scale · x / cap)"""
    _require_mask(x, where, cells)
    return x.type


@soft_cap_max.reference
def _(
    x: Array,
    where: Array,
    cells: Array,
    sinks: Array | None = None,
    *,
    cap: float,
    scale: float = 1.0,
    window: int = 0,
    chunk: int = 0,
) -> Array:
    score = cap * np.tanh(x.astype(np.float64) * scale / cap).swapaxes(0, 1)
    return as_f32(_weights(score, visible(where, cells, window, chunk), sinks).swapaxes(0, 1))


@soft_cap_max.flops
def _(x: TensorType, *_: TensorType, **attrs: float) -> int:
    return 8 * x.numel


soft_cap_max.draw(where=tokens_behind, cells=every_position)


@soft_cap_max.cases
def _() -> Iterator[Case]:
    for n_tokens, n_cells in ((1, 300), (5, 33)):
        mask = i32(n_tokens, 3), i32(n_cells, 2)
        yield case(f32(n_tokens, 4, n_cells), *mask, cap=0.5, scale=0.3)
        yield case(f32(n_tokens, 4, n_cells), *mask, f32(4), cap=5.0, scale=0.3, window=9)
