"""Recurrences for CHUNK tokens at once: products of small matrices.

A token multiplies a head's matrix S by e^g, adds u kᵀ to it, and reads it with q. Within a chunk, G_t is the sum of g
up to token t, S the matrix in front of the chunk, and U has the rows u:

    Y = e^G Q Sᵀ + P U with P[t, s] = e^(G_t - G_s) q_t·k_s for s <= t
    S = e^G_last S + Uᵀ (e^(G_last - G) K)

With a decay per element of k (`channel_chunk`) g and G are vectors. Exponents are sums of g between two tokens, never
differences of long sums, and never above 0 where they are read. While chunks of a run pass, S is transposed in scratch,
in panels of 16 rows: tiles of 4 tokens by 16 rows are in registers.
"""

from typing import Any

import numpy as np

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.lanes import full_block
from graphsched.backends.cpu.language.mathfn import exp
from graphsched.backends.cpu.language.simd import fma, get, load, mul, put, splat, store
from graphsched.backends.cpu.language.soft_max import one_exp
from graphsched.backends.cpu.language.tile import columns, load_rows, row_starts, store_rows, zeros
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.recurrent.panels import CHUNK, ROW, Room

TOKENS = 4  # of a tile
_ZERO: Any = np.float32(0.0)


@helper
def put_weights(room: Room, dk: int, scale: float, with_products: int) -> None:
    """What a chunk's keys, queries, g and rates make of each other; results are scaled."""
    for r in range(0, CHUNK, TOKENS):
        put_tile(room.weights + ROW * r, ROW, product(room.queries + 4 * r, room.keys, dk))
        if with_products:
            put_tile(room.products + ROW * r, ROW, product(room.keys + 4 * r, room.keys, dk))
    total, between, weight = _ZERO, splat(0.0, 16), splat(1.0, 16)
    for t in range(CHUNK):
        g = get(room.g + 4 * t, F32)
        total += g
        put(room.read + 4 * t, total, F32)
        before = load(room.steps + ROW - 4 * t, F32, 16)  # 1 for tokens in front of t
        between = fma(before, splat(g, 16), between)
        weight = exp(between)
        if with_products:
            scale_lanes(room.products + ROW * t, mul(before, weight))
        until = load(room.steps + ROW - 4 * (t + 1), F32, 16)
        scale_lanes(room.weights + ROW * t, mul(mul(until, splat(scale, 16)), weight))
    kept = exp(load(room.read, F32, 16))
    store(room.to_last, weight, F32)
    put(room.kept, one_exp(total), F32)
    store(room.lost, mul(mul(load(room.rate, F32, 16), kept), splat(-1.0, 16)), F32)
    store(room.read, mul(kept, splat(scale, 16)), F32)


@helper
def scale_lanes(at: int, by: Any) -> None:
    """16 floats *= by."""
    store(at, mul(load(at, F32, 16), by), F32)


@helper
def product(x: int, m: int, dk: int) -> Any:
    """A tile: x[:, 4 tokens]ᵀ · m over dk rows of 16, of which x is the first 4."""
    acc = zeros(TOKENS, 16)
    for i in range(dk):
        acc = fma(load(m + ROW * i, F32, 16), columns(x + ROW * i, 4, F32, TOKENS, 16), acc)
    return acc


@helper
def factors(of_tokens: int, t: int) -> Any:
    """A tile whose rows have the numbers of 4 tokens from the t-th."""
    return columns(of_tokens + 4 * t, 4, F32, TOKENS, 16)


@helper
def tile_at(at: int, stride: int) -> Any:
    """A tile of rows `stride` bytes apart."""
    return load_rows(row_starts(TOKENS, at, stride, TOKENS - 1), 0, F32, full_block(16))


@helper
def put_tile(at: int, stride: int, tile: Any) -> None:
    """Stores the rows of a tile `stride` bytes apart."""
    store_rows(row_starts(TOKENS, at, stride, TOKENS - 1), 0, tile, TOKENS, full_block(16))


@helper
def put_changes(room: Room, t: int, change: Any) -> None:
    """Stores rows of U of 4 tokens from the t-th."""
    put_tile(room.change + ROW * t, ROW, change)
    put_tile(room.grown + ROW * t, ROW, mul(change, factors(room.to_last, t)))


@helper
def put_results(room: Room, dk: int, panel: int, t: int, y: int, y_token: int) -> None:
    """16 results of 4 tokens from the t-th, whose rows of U are there."""
    acc = mul(product(room.read_queries + 4 * t, panel, dk), factors(room.read, t))
    for s in range(t + TOKENS):
        weights = columns(room.weights + ROW * t + 4 * s, ROW, F32, TOKENS, 16)
        acc = fma(load(room.change + ROW * s, F32, 16), weights, acc)
    put_tile(y, y_token, acc)


@helper
def grow(room: Room, dk: int, panel: int) -> None:
    """S as it is behind the chunk, a panel of it."""
    for i in range(0, dk, TOKENS):
        kept = columns(room.kept + room.kept_step * i, room.kept_step, F32, TOKENS, 16)
        acc = mul(tile_at(panel + ROW * i, ROW), kept)
        for s in range(CHUNK):
            keys = columns(room.grow_keys + ROW * i + 4 * s, ROW, F32, TOKENS, 16)
            acc = fma(load(room.grown + ROW * s, F32, 16), keys, acc)
        put_tile(panel + ROW * i, ROW, acc)
