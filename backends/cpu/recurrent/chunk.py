"""The gated delta rule with a decay per head for CHUNK tokens at once: products of small matrices.

Within a chunk, G_t is the sum of g up to token t, and the matrix S is that in front of the chunk:

    A[t, s] = β_t e^(G_t - G_s) k_t·k_s for s < t        U = (1 + A)⁻¹ β (V - e^G K Sᵀ)
    P[t, s] = e^(G_t - G_s) q_t·k_s for s <= t           Y = (e^G Q Sᵀ + P U) / sqrt(dk)
    S = e^G_last S + Uᵀ (e^(G_last - G) K)

Exponents are sums of g between two tokens, never differences of long sums, and never above 0 where they are read. S lies
transposed in scratch, in panels of 16 rows, while the chunks of a run pass: tiles of 4 tokens by 16 rows are in registers.
"""

from typing import Any, NamedTuple

import numpy as np

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.lanes import full_block
from graphsched.backends.cpu.language.mathfn import exp
from graphsched.backends.cpu.language.simd import fma, get, load, mul, put, splat, store
from graphsched.backends.cpu.language.tile import columns, load_rows, row_starts, store_rows, zeros
from graphsched.backends.cpu.language.transpose import transpose
from graphsched.backends.cpu.language.vector import F32

CHUNK = 16  # tokens of a chunk, and rows of a panel
_ROW = 4 * CHUNK  # bytes of a row of all tokens, or of a panel
_TILE = 4
_ZERO: Any = np.float32(0.0)


class Room(NamedTuple):
    """Addresses in a thread's scratch: rows of 16 floats, one for each element of k or for each token.

    keys, queries [dk][token]; solve (-A), read (P / sqrt(dk)) [token][token]; change, grown (U, and U decayed to the end
    of the chunk) [token][row]; steps: 16 ones and 16 zeros; sums: e^G, then e^(G_last - G), -β e^G and e^G / sqrt(dk) of
    each token; matrix: panels [dk][row].
    """

    keys: int
    queries: int
    solve: int
    read: int
    change: int
    grown: int
    steps: int
    sums: int
    matrix: int


def room_bytes(dk: int, rows: int) -> int:
    """Scratch that a thread needs for chunks of so many rows of a matrix."""
    return _ROW * (2 * dk + 4 * CHUNK + 2 + 5) + 4 * dk * rows


@helper
def room_at(scratch: int, dk: int) -> Room:
    """The parts of a thread's scratch, with `steps` filled in."""
    queries, solve = scratch + _ROW * dk, scratch + 2 * _ROW * dk
    square = _ROW * CHUNK
    steps = solve + 4 * square
    store(steps, splat(1.0, 16), F32)
    store(steps + _ROW, splat(0.0, 16), F32)
    sums = steps + 2 * _ROW
    return Room(
        scratch,
        queries,
        solve,
        solve + square,
        solve + 2 * square,
        solve + 3 * square,
        steps,
        sums,
        sums + 5 * _ROW,
    )


@helper
def matrix_to_panels(matrix: int, dk: int, rows: int, panels: int) -> None:
    """`rows` rows of a matrix -> panels [dk][16 rows]."""
    for r in range(0, rows, CHUNK):
        for i in range(0, dk, 4):
            transpose(matrix + 4 * (r * dk + i), 4 * dk, panels + 4 * r * dk + _ROW * i, _ROW)


@helper
def matrix_from_panels(matrix: int, dk: int, rows: int, panels: int) -> None:
    """Panels [dk][16 rows] -> `rows` rows of a matrix."""
    for r in range(0, rows, 4):
        panel = panels + 4 * (r // CHUNK * CHUNK) * dk + 4 * (r % CHUNK)
        for i in range(0, dk, CHUNK):
            transpose(panel + _ROW * i, _ROW, matrix + 4 * (r * dk + i), 4 * dk)


@helper
def one_chunk(a: Any, room: Room, t: int, head: int, key: int, first: int, n: int) -> None:
    """CHUNK tokens from t change and read n rows of a head's matrix, from row `first`."""
    for i in range(0, a.dk, 4):
        transpose(a.k + t * a.k_token + key * a.k_head + 4 * i, a.k_token, room.keys + _ROW * i, _ROW)
        transpose(a.q + t * a.q_token + key * a.q_head + 4 * i, a.q_token, room.queries + _ROW * i, _ROW)
    for r in range(0, CHUNK, _TILE):
        put_tile(room.solve + _ROW * r, _ROW, product(room.keys + 4 * r, room.keys, a.dk))
        put_tile(room.read + _ROW * r, _ROW, product(room.queries + 4 * r, room.keys, a.dk))
    put_decays(a, room, t, head)
    v, y = a.v + t * a.v_token + head * a.v_head, a.y + 4 * a.dv * (t * a.heads + head)
    for r in range(first, first + n, CHUNK):
        panel = room.matrix + 4 * a.dk * (r - first)
        for u in range(0, CHUNK, _TILE):
            put_changes(a, room, panel, u, v + u * a.v_token + 4 * r)
            put_results(a, room, panel, u, y + 4 * (u * a.heads * a.dv + r))
        grow(room, panel, a.dk)


@helper
def product(x: int, m: int, dk: int) -> Any:
    """A tile: x[:, 4 tokens]ᵀ · m over dk rows of 16, of which x is the first 4."""
    acc = zeros(_TILE, 16)
    for i in range(dk):
        acc = fma(load(m + _ROW * i, F32, 16), columns(x + _ROW * i, 4, F32, _TILE, 16), acc)
    return acc


@helper
def put_tile(at: int, stride: int, tile: Any) -> None:
    """Stores the rows of a tile `stride` bytes apart."""
    store_rows(row_starts(_TILE, at, stride, _TILE - 1), 0, tile, _TILE, full_block(16))


@helper
def put_decays(a: Any, room: Room, t: int, head: int) -> None:
    """Products of keys and queries become -A and P / sqrt(dk); fills in `sums`."""
    total, between = _ZERO, splat(0.0, 16)
    g, beta, weight = a.g + t * a.g_token + 4 * head, a.beta + t * a.beta_token + 4 * head, splat(1.0, 16)
    for u in range(CHUNK):
        step, rate = get(g + u * a.g_token, F32), get(beta + u * a.beta_token, F32)
        total += step
        put(room.sums + 4 * u, total, F32)
        put(room.sums + 2 * _ROW + 4 * u, rate, F32)
        before, until = (
            load(room.steps + _ROW - 4 * u, F32, 16),
            load(room.steps + _ROW - 4 * (u + 1), F32, 16),
        )
        between = fma(before, splat(step, 16), between)
        weight = exp(between)
        at, to = room.solve + _ROW * u, room.read + _ROW * u
        store(at, mul(mul(load(at, F32, 16), weight), mul(before, splat(-rate, 16))), F32)
        store(to, mul(mul(load(to, F32, 16), weight), mul(until, splat(a.scale, 16))), F32)
    kept = exp(load(room.sums, F32, 16))
    store(room.sums, kept, F32)
    store(room.sums + _ROW, weight, F32)
    rates = load(room.sums + 2 * _ROW, F32, 16)
    store(room.sums + 3 * _ROW, mul(mul(rates, kept), splat(-1.0, 16)), F32)
    store(room.sums + 4 * _ROW, mul(kept, splat(a.scale, 16)), F32)


@helper
def put_changes(a: Any, room: Room, panel: int, u: int, v: int) -> None:
    """Rows of U of 4 tokens from the u-th, and the same decayed to the end of the chunk."""
    values = load_rows(row_starts(_TILE, v, a.v_token, _TILE - 1), 0, F32, full_block(16))
    acc = mul(values, columns(room.sums + 2 * _ROW + 4 * u, 4, F32, _TILE, 16))
    read = product(room.keys + 4 * u, panel, a.dk)
    acc = fma(read, columns(room.sums + 3 * _ROW + 4 * u, 4, F32, _TILE, 16), acc)
    at = room.solve + _ROW * u
    for s in range(u):
        acc = fma(load(room.change + _ROW * s, F32, 16), columns(at + 4 * s, _ROW, F32, _TILE, 16), acc)
    solved = solve(at + 4 * u, acc)
    put_tile(room.change + _ROW * u, _ROW, solved)
    put_tile(room.grown + _ROW * u, _ROW, mul(solved, columns(room.sums + _ROW + 4 * u, 4, F32, _TILE, 16)))


@helper
def solve(at: int, acc: Any) -> Any:
    """Forward substitution of 4 rows by each other; `at`: their square of -A."""
    first = acc[0]
    second = fma(entry(at, 1, 0), first, acc[1])
    third = fma(entry(at, 2, 1), second, fma(entry(at, 2, 0), first, acc[2]))
    last = fma(entry(at, 3, 1), second, fma(entry(at, 3, 0), first, acc[3]))
    return first, second, third, fma(entry(at, 3, 2), third, last)


@helper
def entry(at: int, t: int, s: int) -> Any:
    """One number of a square in all lanes."""
    return splat(get(at + _ROW * t + 4 * s, F32), 16)


@helper
def put_results(a: Any, room: Room, panel: int, u: int, y: int) -> None:
    """16 results of 4 tokens from the u-th."""
    read = product(room.queries + 4 * u, panel, a.dk)
    acc = mul(read, columns(room.sums + 4 * _ROW + 4 * u, 4, F32, _TILE, 16))
    for s in range(u + _TILE):
        weights = columns(room.read + _ROW * u + 4 * s, _ROW, F32, _TILE, 16)
        acc = fma(load(room.change + _ROW * s, F32, 16), weights, acc)
    put_tile(y, 4 * a.heads * a.dv, acc)


@helper
def grow(room: Room, panel: int, dk: int) -> None:
    """S = e^G_last S + Uᵀ K for a panel."""
    kept = splat(get(room.sums + 4 * (CHUNK - 1), F32), 16)
    for i in range(0, dk, _TILE):
        at = row_starts(_TILE, panel + _ROW * i, _ROW, _TILE - 1)
        acc = mul(load_rows(at, 0, F32, full_block(16)), kept)
        for s in range(CHUNK):
            keys = columns(room.keys + _ROW * i + 4 * s, _ROW, F32, _TILE, 16)
            acc = fma(load(room.grown + _ROW * s, F32, 16), keys, acc)
        store_rows(at, 0, acc, _TILE, full_block(16))
