"""The gated delta rule in chunks, with a decay per element of k: each channel has weights of its own.

Decays between two tokens are products of e^g, at most 1 each, so that nothing overflows and nothing is divided. Keys
and queries that meet the matrix carry its decay, from the chunk's first token on or to its last.
"""

from typing import Any

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.lanes import for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.mathfn import exp
from graphsched.backends.cpu.language.simd import fma, get, load, mul, put, splat, store
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.recurrent.delta_chunk import change_panels, put_operands
from graphsched.backends.cpu.recurrent.panels import (
    CHUNK,
    ROW,
    Room,
    in_chunks,
    put_columns,
    room_at,
    room_bytes,
)


def channel_room_bytes(dk: int, rows: int) -> int:
    """Scratch that a thread needs for chunks of so many rows of a matrix."""
    return 6 * ROW * dk + 4 * dk + 2 * ROW + room_bytes(dk, rows)


@helper
def channel_room_at(scratch: int, dk: int) -> Room:
    """The parts of a thread's scratch, with `unit` filled in."""
    size = ROW * dk
    kept, unit = scratch + 6 * size, scratch + 6 * size + 4 * dk
    store(unit, splat(0.0, 16), F32)
    store(unit + ROW, splat(0.0, 16), F32)
    put(unit + ROW, 1.0, F32)
    r = room_at(unit + 2 * ROW, dk)
    return Room(
        r.keys,
        r.queries,
        scratch,
        scratch + size,
        scratch + 2 * size,
        r.products,
        r.weights,
        r.change,
        r.grown,
        r.steps,
        r.g,
        r.rate,
        r.to_last,
        r.lost,
        r.read,
        kept,
        4,
        r.matrix,
        scratch + 3 * size,
        scratch + 4 * size,
        scratch + 5 * size,
        unit,
    )


@in_chunks(channel_room_at)
def channel_chunks(a: Any, room: Room, t: int, head: int, key: int, first: int, n: int) -> None:
    """CHUNK tokens from t change and read n rows of a head's matrix, from row `first`; called as `in_chunks` says."""
    dk = a.dk
    put_operands(a, room, t, head, key)
    for u in range(CHUNK):
        put_exp(dk, a.g + (t + u) * a.g_token + head * a.g_head, room.decays + 4 * dk * u)
    put_columns(room.decays, 4 * dk, dk, room.decay_columns)
    k, q = a.k + t * a.k_token + key * a.k_head, a.q + t * a.q_token + key * a.q_head
    decay_from_first(dk, k, a.k_token, room.decays, room.rows, 4 * dk)
    put_columns(room.rows, 4 * dk, dk, room.read_keys)
    decay_from_first(dk, q, a.q_token, room.decays, room.rows, 4 * dk)
    put_columns(room.rows, 4 * dk, dk, room.read_queries)
    decay_to_last(dk, k, a.k_token, room.decays, room.rows, 4 * dk, room.kept)
    put_columns(room.rows, 4 * dk, dk, room.grow_keys)
    put_weights(room, dk, a.scale)
    change_panels(a, room, t, head, first, n)


@for_lanes(16)
def put_exp(i: int, block: Any, x: int, y: int) -> None:
    """y = e^x; called with (n, x, y)."""
    store_lanes(y + 4 * i, exp(load_lanes(x + 4 * i, F32, block)), F32, block)


@for_lanes(16)
def decay_from_first(i: int, block: Any, x: int, x_token: int, decays: int, y: int, row: int) -> None:
    """Rows of y = those of x, times the decays up to and with their token; called with (n, x, ...)."""
    decay = splat(1.0, 16)
    for t in range(CHUNK):
        decay = mul(decay, load_lanes(decays + row * t + 4 * i, F32, block))
        store_lanes(
            y + row * t + 4 * i, mul(decay, load_lanes(x + x_token * t + 4 * i, F32, block)), F32, block
        )


@for_lanes(16)
def decay_to_last(i: int, block: Any, x: int, x_token: int, decays: int, y: int, row: int, all: int) -> None:
    """Rows of y = those of x, times the decays behind their token; all = every decay. Called with (n, x, ...)."""
    decay = splat(1.0, 16)
    for back in range(CHUNK):
        t = CHUNK - 1 - back
        store_lanes(
            y + row * t + 4 * i, mul(decay, load_lanes(x + x_token * t + 4 * i, F32, block)), F32, block
        )
        decay = mul(decay, load_lanes(decays + row * t + 4 * i, F32, block))
    store_lanes(all + 4 * i, decay, F32, block)


@helper
def put_weights(room: Room, dk: int, scale: float) -> None:
    """What a chunk's keys, queries, decays and rates make of each other; results are scaled."""
    zero = splat(0.0, 16)
    for t in range(CHUNK):
        store(room.products + ROW * t, zero, F32)
        store(room.weights + ROW * t, zero, F32)
    for i in range(dk):
        add_channel(room, ROW * i, scale)
    store(room.lost, mul(load(room.rate, F32, 16), splat(-1.0, 16)), F32)
    store(room.read, splat(scale, 16), F32)
    store(room.to_last, splat(1.0, 16), F32)


@helper
def add_channel(room: Room, at: int, scale: float) -> None:
    """Adds a channel's share, `at` bytes into columns: `seen` has what is left of each token's key at token t."""
    keys, seen = load(room.keys + at, F32, 16), splat(0.0, 16)
    for t in range(CHUNK):
        seen = mul(seen, splat(get(room.decay_columns + at + 4 * t, F32), 16))
        add_to(room.products + ROW * t, seen, get(room.keys + at + 4 * t, F32))
        seen = fma(load(room.unit + ROW - 4 * t, F32, 16), keys, seen)
        add_to(room.weights + ROW * t, seen, get(room.queries + at + 4 * t, F32) * scale)


@helper
def add_to(at: int, x: Any, by: float) -> None:
    """16 floats += x · by."""
    store(at, fma(x, splat(by, 16), load(at, F32, 16)), F32)
