"""The gated delta rule in chunks: a token's u depends on those in front of it, so that they are solved for.

U = (1 + A)⁻¹ β (V - e^G K Sᵀ) with A[t, s] = β_t e^(G_t - G_s) k_t·k_s for s < t
"""

from typing import Any

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import fma, get, load, mul, put, splat
from graphsched.backends.cpu.language.tile import columns
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.recurrent.chunk import (
    TOKENS,
    factors,
    grow,
    product,
    put_changes,
    put_results,
    put_weights,
    scale_lanes,
    tile_at,
)
from graphsched.backends.cpu.recurrent.panels import CHUNK, ROW, Room, in_chunks, put_columns, room_at


@in_chunks(room_at)
def delta_chunks(a: Any, room: Room, t: int, head: int, key: int, first: int, n: int) -> None:
    """CHUNK tokens from t change and read n rows of a head's matrix, from row `first`; called as `in_chunks` says."""
    put_operands(a, room, t, head, key)
    for u in range(CHUNK):
        put(room.g + 4 * u, get(a.g + (t + u) * a.g_token + head * a.g_head, F32), F32)
    put_weights(room, a.dk, a.scale, 1)
    change_panels(a, room, t, head, first, n)


@helper
def put_operands(a: Any, room: Room, t: int, head: int, key: int) -> None:
    """Keys, queries and rates of a chunk."""
    put_columns(a.k + t * a.k_token + key * a.k_head, a.k_token, a.dk, room.keys)
    put_columns(a.q + t * a.q_token + key * a.q_head, a.q_token, a.dk, room.queries)
    for u in range(CHUNK):
        put(room.rate + 4 * u, get(a.beta + (t + u) * a.beta_token + 4 * head, F32), F32)


@helper
def change_panels(a: Any, room: Room, t: int, head: int, first: int, n: int) -> None:
    """Solves, reads and grows, panel by panel, as the weights say."""
    for u in range(CHUNK):
        scale_lanes(room.products + ROW * u, splat(-get(room.rate + 4 * u, F32), 16))
    v, y = a.v + t * a.v_token + head * a.v_head, a.y + 4 * a.dv * (t * a.heads + head)
    for r in range(first, first + n, CHUNK):
        panel = room.matrix + 4 * a.dk * (r - first)
        for u in range(0, CHUNK, TOKENS):
            put_changes(room, u, solved(room, a.dk, panel, u, tile_at(v + u * a.v_token + 4 * r, a.v_token)))
            put_results(room, a.dk, panel, u, y + 4 * (u * a.heads * a.dv + r), 4 * a.heads * a.dv)
        grow(room, a.dk, panel)


@helper
def solved(room: Room, dk: int, panel: int, t: int, values: Any) -> Any:
    """Rows of U of 4 tokens from the t-th."""
    read = product(room.read_keys + 4 * t, panel, dk)
    acc = fma(read, factors(room.lost, t), mul(values, factors(room.rate, t)))
    at = room.products + ROW * t
    for s in range(t):
        acc = fma(load(room.change + ROW * s, F32, 16), columns(at + 4 * s, ROW, F32, TOKENS, 16), acc)
    return substituted(at + 4 * t, acc)


@helper
def substituted(at: int, acc: Any) -> Any:
    """Forward substitution of 4 rows by each other; `at`: their square of -A."""
    first = acc[0]
    second = fma(entry(at, 1, 0), first, acc[1])
    third = fma(entry(at, 2, 1), second, fma(entry(at, 2, 0), first, acc[2]))
    last = fma(entry(at, 3, 1), second, fma(entry(at, 3, 0), first, acc[3]))
    return first, second, third, fma(entry(at, 3, 2), third, last)


@helper
def entry(at: int, t: int, s: int) -> Any:
    """One number of a square in all lanes."""
    return splat(get(at + ROW * t + 4 * s, F32), 16)
