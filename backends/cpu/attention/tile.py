"""A tile of a token's queries that share a KV head, 1 or 4, against a chunk of positions: scores, and sums of values.

Of 4, each key and value is loaded once for all. Of a single query the products run in four chains (`dot_row`), and it
reads block types, too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from graphsched.backends.cpu.attention.common import SCORES, block_end, cell_at
from graphsched.backends.cpu.attention.kv import add_scaled, dot_kv
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.lanes import fold_lanes, for_lanes, load_lanes
from graphsched.backends.cpu.language.simd import fma, get, mul, put, splat
from graphsched.backends.cpu.language.soft_max import NEVER
from graphsched.backends.cpu.language.tile import (
    columns,
    load_rows,
    put_column,
    row_sums,
    store_rows,
    zeros,
)
from graphsched.backends.cpu.language.vector import F32, I32

TILE = 4


class Chunk(NamedTuple):
    """Positions [first, end) of one KV head of a sequence: addresses of keys and values, and of scratch.

    table: the address of the list of the sequence's blocks; unseen: the last position that is not seen. Strides are in
    bytes.
    """

    first: int
    end: int
    keys: int
    key_stride: int
    values: int
    value_stride: int
    table: int
    unseen: int
    scores: int


def scratch_bytes(tile: int, v_dim: int) -> int:
    """Scratch per thread: scores of the queries; of several also the cells that they see, and sums of values."""
    return SCORES if tile == 1 else SCORES * (tile + 1) + 4 * tile * v_dim


def put_scores(tile: int, key_kind: int, chunk: Chunk, q: Any, dim: int, scale: float) -> int:
    """Scores of the queries at the addresses q, NEVER for what is not seen; returns how many they are. For kernels."""
    raise NotImplementedError


def add_values(tile: int, value_kind: int, chunk: Chunk, n: int, sums: Any, v_dim: int) -> None:
    """Adds the values of the n cells that have scores, times the weights that these have become. For kernels."""


@by_literal(put_scores)
def _(tile: int) -> Callable[..., int]:
    return _scores_of_one if tile == 1 else _scores_of_several


@by_literal(add_values)
def _(tile: int) -> Callable[..., None]:
    return _add_to_one if tile == 1 else _add_to_several


def _scores_of_one(tile: int, key_kind: int, chunk: Chunk, q: Any, dim: int, scale: float) -> int:
    first = chunk.first
    while first < chunk.end:
        end = min(chunk.end, block_end(first))
        key = chunk.keys + cell_at(chunk.table, first) * chunk.key_stride
        for position in range(first, end):
            s = NEVER
            if position > chunk.unseen:
                s = dot_kv(key_kind, key, q[0], dim) * scale
            put(chunk.scores + 4 * (position - chunk.first), s, F32)
            key += chunk.key_stride
        first = end
    return chunk.end - chunk.first


def _add_to_one(tile: int, value_kind: int, chunk: Chunk, n: int, sums: Any, v_dim: int) -> None:
    first = chunk.first
    while first < chunk.end:
        end = min(chunk.end, block_end(first))
        value = chunk.values + cell_at(chunk.table, first) * chunk.value_stride
        for position in range(first, end):
            p = get(chunk.scores + 4 * (position - chunk.first), F32)
            if p > 0.0:
                add_scaled(value_kind, value, p, sums[0], v_dim)
            value += chunk.value_stride
        first = end


def _scores_of_several(tile: int, key_kind: int, chunk: Chunk, q: Any, dim: int, scale: float) -> int:
    n = list_cells(chunk)
    for j in range(n):
        index, at = get(indices_of(chunk) + 4 * j, I32), chunk.scores + 4 * j
        seen = chunk.first + j > chunk.unseen
        products = dots(key_kind, q, chunk.keys + index * chunk.key_stride, dim)
        put_column(at, SCORES, mul(products, splat(scale, TILE)) if seen else splat(NEVER, TILE))
    return n


@helper
def indices_of(chunk: Chunk) -> int:
    """Where the cells of the positions are listed, behind the scores."""
    return chunk.scores + TILE * SCORES


@helper
def list_cells(chunk: Chunk) -> int:
    """Lists the cells of the chunk's positions; returns how many."""
    first, indices = chunk.first, indices_of(chunk)
    while first < chunk.end:
        end, cell = min(chunk.end, block_end(first)), cell_at(chunk.table, first)
        for position in range(first, end):
            put(indices + 4 * (position - chunk.first), cell + position - first, I32)
        first = end
    return chunk.end - chunk.first


def dots(kind: int, q: Any, key: int, dim: int) -> Any:
    """The products of a key of type `kind` with each of the queries at the addresses q, one a lane. For kernels."""


@by_literal(dots)
def _(t: int) -> Callable[..., Any]:
    size = 4 if t == F32 else 2

    @fold_lanes(16)
    def products(i: int, block: Any, acc: Any, q: Any, key: int) -> Any:
        return fma(load_rows(q, 4 * i, F32, block), load_lanes(key + size * i, t, block), acc)

    def impl(kind: int, q: Any, key: int, dim: int) -> Any:
        return row_sums(products(dim, zeros(TILE, 16), q, key))

    return impl


def _add_to_several(tile: int, value_kind: int, chunk: Chunk, n: int, sums: Any, v_dim: int) -> None:
    add_weighted(value_kind, chunk, n, sums, v_dim)


def add_weighted(kind: int, chunk: Chunk, n: int, sums: Any, v_dim: int) -> None:
    """`add_values` of several queries. For kernels."""


@by_literal(add_weighted)
def _(t: int) -> Callable[..., None]:
    size = 4 if t == F32 else 2

    @for_lanes(32, 16)
    def add_block(i: int, block: Any, chunk: Chunk, n: int, sums: Any) -> None:
        acc = load_rows(sums, 4 * i, F32, block)
        for j in range(n):
            value = chunk.values + get(indices_of(chunk) + 4 * j, I32) * chunk.value_stride
            weights = columns(chunk.scores + 4 * j, SCORES, F32, TILE, block)
            acc = fma(load_lanes(value + size * i, t, block), weights, acc)
        store_rows(sums, 4 * i, acc, TILE, block)

    def impl(kind: int, chunk: Chunk, n: int, sums: Any, v_dim: int) -> None:
        add_block(v_dim, chunk, n, sums)

    return impl
