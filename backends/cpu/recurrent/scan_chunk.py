"""The selective scan in chunks: b is the key, c the query, and a token's u is δ x, whatever came before."""

from typing import Any

from graphsched.backends.cpu.language.mathfn import softplus
from graphsched.backends.cpu.language.simd import get, load, mul, put, splat, store
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.recurrent.chunk import (
    TOKENS,
    factors,
    grow,
    put_changes,
    put_results,
    put_weights,
    tile_at,
)
from graphsched.backends.cpu.recurrent.panels import CHUNK, Room, in_chunks, put_columns, room_at


@in_chunks(room_at)
def scan_chunks(p: Any, room: Room, t: int, head: int, group: int, first: int, n: int) -> None:
    """CHUNK tokens from t change and read n rows of a head's matrix, from row `first`; called as `in_chunks` says."""
    put_columns(p.b + t * p.b_token + group * p.b_head, p.b_token, p.n_state, room.keys)
    put_columns(p.c + t * p.c_token + group * p.c_head, p.c_token, p.n_state, room.queries)
    for u in range(CHUNK):
        put(room.rate + 4 * u, get(p.dt + (t + u) * p.dt_token + 4 * head, F32), F32)
    delta = softplus(load(room.rate, F32, 16))
    store(room.rate, delta, F32)
    store(room.g, mul(delta, splat(get(p.a + head * p.a_head, F32), 16)), F32)
    put_weights(room, p.n_state, 1.0, 0)
    x, y = p.x + t * p.x_token + head * p.x_head, p.y + 4 * p.width * (t * p.heads + head)
    for r in range(first, first + n, CHUNK):
        panel = room.matrix + 4 * p.n_state * (r - first)
        for u in range(0, CHUNK, TOKENS):
            put_changes(room, u, mul(tile_at(x + u * p.x_token + 4 * r, p.x_token), factors(room.rate, u)))
            put_results(room, p.n_state, panel, u, y + 4 * (u * p.heads * p.width + r), 4 * p.heads * p.width)
        grow(room, p.n_state, panel)
