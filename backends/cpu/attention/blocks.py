"""Flash attention of many queries: blocks of queries against chunks of positions, as products of matrices.

A unit is a block of queries that share a KV head. Keys of 16 positions are decoded and transposed once for all of them,
values of some positions decoded once; register tiles of a few queries by 16 lanes go over both. A score is one sum over
the elements of a key in order, a result one over positions in order: bits depend neither on the block nor on its tiles.
The mask is computed, never stored; tiles of which nothing is seen are left out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from graphsched.backends.cpu.attention.common import (
    ALIGN,
    ATTENTION,
    CHUNK,
    SCORES,
    WHERE,
    Query,
    cell_at,
    lean,
    query_at,
    slope,
)
from graphsched.backends.cpu.formats.rows import dequantize_row
from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.jit import by_literal, helper, kernel
from graphsched.backends.cpu.language.lanes import (
    clear,
    for_lanes,
    full_block,
    load_lanes,
    put_scaled,
)
from graphsched.backends.cpu.language.simd import fma, get, load, mul, put, splat, word
from graphsched.backends.cpu.language.soft_max import NEVER, ONE, ZERO, weigh_chunk
from graphsched.backends.cpu.language.tile import columns, load_rows, row_starts, store_rows, zeros
from graphsched.backends.cpu.language.transpose import PANEL, transpose
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, rows
from graphsched.backends.cpu.program.layout import ABORT

QUERIES = 64  # of a block: decoding and transposing a key costs as much as the products of some with it
LEAST = 8  # of a block
VALUES = 64  # positions whose values are decoded at a time
ROW = 4 * PANEL  # bytes of an element of the keys of a panel
STATE = 8  # bytes of a query's (top, total)


class Room(NamedTuple):
    """Addresses in a thread's scratch, how many queries have room, and bytes of a row of keys, and of values, in it.

    panel: keys [width][16]; decoded: keys [16][width], then values [VALUES][v_dim]; queries [query][width]; state:
    (top, total) of each; sums [query][v_dim]; scores [query][CHUNK], which become weights.
    """

    panel: int
    decoded: int
    queries: int
    state: int
    sums: int
    scores: int
    places: int
    width: int
    v_width: int


def scratch_bytes(dim: int, v_dim: int, queries: int) -> int:
    """Scratch per thread; a KV head has so many queries at most."""
    width, v_width = (dim + 3) // 4 * 16, 4 * v_dim
    places = min((queries + LEAST - 1) // LEAST * LEAST, QUERIES)
    return PANEL * width + max(PANEL * width, VALUES * v_width) + places * (width + STATE + v_width + SCORES)


@helper
def room_at(scratch: int, nbytes: int, dim: int, v_dim: int) -> Room:
    """The parts of a thread's scratch of so many bytes."""
    width, v_width = (dim + 3) // 4 * 16, 4 * v_dim
    decoded = scratch + PANEL * width
    queries = decoded + max(PANEL * width, VALUES * v_width)
    places = (scratch + nbytes - queries) // (width + STATE + v_width + SCORES)
    state = queries + places * width
    sums = state + places * STATE
    scores = sums + places * v_width
    return Room(scratch, decoded, queries, state, sums, scores, places, width, v_width)


@kernel(ATTENTION)
def flash_attn_blocks(key_kind: int, value_kind: int) -> Callable[..., None]:
    """y[t, h] = softmax(scale · q[t, h] · kᵀ) · v for blocks of queries."""
    tile = 8 if target.has("avx512f") else 4  # as many rows as leave registers for a row of keys or values

    def attention(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        n, kv_heads = rows(step, run) * a.group, a.heads // a.group
        room = room_at(a.scratch + ith * a.per_thread, a.per_thread, a.dim, a.v_dim)
        block = block_of(n * kv_heads // nth, room.places)
        blocks = (n + block - 1) // block
        unit = next_unit(step)
        while unit < blocks * kv_heads and not word(run, ABORT):
            first = (blocks - 1 - unit // kv_heads) * block  # late queries see more: they come first
            end = min(first + block, n)
            while first < end:
                last = end_of_sequence(a, first, end)
                attend(tile, key_kind, value_kind, a, room, unit % kv_heads, first, last)
                first = last
            unit = next_unit(step)

    return attention


@helper
def block_of(per_thread: int, places: int) -> int:
    """Queries of a block: fewer where threads would have less than four to balance with."""
    return max(min(per_thread // 4 // LEAST * LEAST, places), LEAST)


@helper
def query(a: Any, i: int) -> Query:
    """What the i-th query of a KV head sees (`query_at`); they are numbered by token."""
    return query_at(a.where + WHERE * (i // a.group), a.window, a.chunk)


@helper
def end_of_sequence(a: Any, first: int, end: int) -> int:
    """Up to where queries from `first` on are of one sequence."""
    slot, i = query(a, first)[0], first
    while i < end and query(a, i)[0] == slot:
        i = (i // a.group + 1) * a.group
    return min(i, end)


@helper
def attend(
    tile: int, key_kind: int, value_kind: int, a: Any, room: Room, kv_head: int, first: int, last: int
) -> None:
    """The results of queries [first, last) of one sequence."""
    oldest, newest = query(a, first), query(a, last - 1)
    begin, end, table = oldest[2] + 1, newest[1] + 1, a.table + 4 * oldest[3]
    for i in range(first, last):
        start_query(a, room, kv_head, i, i - first)
    for chunk in range(begin // CHUNK * CHUNK, end, CHUNK):
        at, until = max(chunk, begin // ALIGN * ALIGN), min(chunk + CHUNK, end)
        for position in range(at, until, PANEL):
            put_panel(key_kind, a, room, kv_head, table, position, min(position + PANEL, until))
            scores = room.scores + 4 * (position - at)
            for i in range(first, last, tile):
                if sees_some(a, i, min(i + tile, last), position, position + PANEL):
                    put_scores(tile, room, scores, i - first, a.scale)
        for i in range(first, last):
            weigh(a, room, kv_head * a.group + i % a.group, query(a, i), i - first, at, until)
        for position in range(at, until, VALUES):
            stop = min(position + VALUES, until)
            put_values(value_kind, a, room, kv_head, table, position, stop)
            for i in range(first, last, tile):
                low, high = query(a, i)[2] + 1, query(a, min(i + tile, last) - 1)[1] + 1
                span = max(low, position), min(high, stop)
                if span[0] < span[1]:
                    add_values(tile, room, i - first, at, position, span)
    for i in range(first, last):
        finish_query(a, room, kv_head, i, i - first)


@helper
def sees_some(a: Any, i: int, end: int, first: int, last: int) -> bool:
    """Whether one of the queries [i, end) of a sequence sees one of the positions [first, last)."""
    return query(a, i)[2] + 1 < last and query(a, end - 1)[1] >= first


@helper
def start_query(a: Any, room: Room, kv_head: int, i: int, place: int) -> None:
    """Copies a query to its place in the room; its sums are 0, its top and total those of the sink, if there is one."""
    head, to = kv_head * a.group + i % a.group, room.queries + room.width * place
    for d in range(a.dim, room.width // 4):
        put(to + 4 * d, ZERO, F32)
    put_scaled(a.dim, a.q + i // a.group * a.q_token + head * a.q_head, to, ONE)
    clear(a.v_dim, room.sums + room.v_width * place)
    put(room.state + STATE * place, get(a.sinks + 4 * head, F32) if a.sinks else NEVER, F32)
    put(room.state + STATE * place + 4, ONE if a.sinks else ZERO, F32)


@helper
def finish_query(a: Any, room: Room, kv_head: int, i: int, place: int) -> None:
    """Writes a query's result: its sums over their total."""
    total = get(room.state + STATE * place + 4, F32)
    row = i // a.group * a.heads + kv_head * a.group + i % a.group
    factor = ONE / total if total > 0.0 else ZERO
    put_scaled(a.v_dim, room.sums + room.v_width * place, a.y + 4 * row * a.v_dim, factor)


@helper
def put_panel(kind: int, a: Any, room: Room, kv_head: int, table: int, first: int, end: int) -> None:
    """Keys of positions [first, end), 16 at most, side by side: [element][position]."""
    cell = cell_at(table, first)
    keys = a.k + kv_head * a.k_head + cell * a.k_token
    for r in range(end - first):
        dequantize_row(kind, keys + r * a.k_token, room.decoded + room.width * r, a.dim)
    for d in range(0, room.width, 16):
        transpose(room.decoded + d, room.width, room.panel + PANEL * d, ROW)


@helper
def put_scores(tile: int, room: Room, scores: int, place: int, scale: float) -> None:
    """Scores of a tile of queries with the positions of the panel, whether they see them or not."""
    acc, q = zeros(tile, 16), room.queries + room.width * place
    for d in range(0, room.width, 4):
        acc = fma(load(room.panel + PANEL * d, F32, 16), columns(q + d, room.width, F32, tile, 16), acc)
    there = row_starts(tile, scores + SCORES * place, SCORES, tile - 1)
    store_rows(there, 0, mul(acc, splat(scale, 16)), tile, full_block(16))


@helper
def weigh(a: Any, room: Room, head: int, seen: Query, place: int, first: int, end: int) -> None:
    """Scores of a head's query with positions [first, end) become weights, 0 where it does not see them."""
    low, high = max(seen[2] + 1, first), min(seen[1] + 1, end)
    scores, state = room.scores + SCORES * place, room.state + STATE * place
    if low < high:
        hide(scores, 0, low - first)
        hide(scores, high - first, end - first)
        if a.max_bias > 0.0:
            at = scores + 4 * (low - first)
            lean(high - low, at, slope(a.max_bias, head, a.heads), low, seen[1])
        sums = room.sums + room.v_width * place
        top, total = weigh_chunk(
            scores, end - first, a.cap, get(state, F32), get(state + 4, F32), sums, a.v_dim
        )
        put(state, top, F32)
        put(state + 4, total, F32)
    else:
        clear(end - first, scores)


@helper
def hide(scores: int, first: int, end: int) -> None:
    """Puts NEVER for scores [first, end)."""
    for j in range(first, end):
        put(scores + 4 * j, NEVER, F32)


@helper
def put_values(kind: int, a: Any, room: Room, kv_head: int, table: int, first: int, end: int) -> None:
    """Values of positions [first, end) as float32."""
    values = a.v + kv_head * a.v_head
    for position in range(first, end):
        at = values + cell_at(table, position) * a.v_token
        dequantize_row(kind, at, room.decoded + room.v_width * (position - first), a.v_dim)


def add_values(tile: int, room: Room, place: int, at: int, first: int, span: tuple[int, int]) -> None:
    """Adds the values of positions `span`, weighted, to the sums of a tile of queries.

    Scores begin with position `at`, decoded values with `first`. For kernels.
    """


@by_literal(add_values)
def _(tile: int) -> Callable[..., None]:
    @for_lanes(16)
    def add_block(i: int, block: Any, sums: Any, weights: int, values: int, width: int, span: Any) -> None:
        acc = load_rows(sums, 4 * i, F32, block)
        for position in range(span[0], span[1]):
            value = load_lanes(values + width * position + 4 * i, F32, block)
            acc = fma(value, columns(weights + 4 * position, SCORES, F32, tile, block), acc)
        store_rows(sums, 4 * i, acc, tile, block)

    def impl(tile: int, room: Room, place: int, at: int, first: int, span: tuple[int, int]) -> None:
        sums = row_starts(tile, room.sums + room.v_width * place, room.v_width, tile - 1)
        weights, values = room.scores + SCORES * place - 4 * at, room.decoded - room.v_width * first
        add_block(room.v_width // 4, sums, weights, values, room.v_width, span)

    return impl
