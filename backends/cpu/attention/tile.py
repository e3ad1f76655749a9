"""Flash attention for prompts: four queries that share a KV head pass over its cells together.

Each key and value is loaded once for the four. Cells that none of the four sees are never read. Cells pass in fixed
chunks, in order, so that results do not depend on the number of threads.
"""

from collections.abc import Callable

import numpy as np

from graphsched.backends.cpu.attention.common import (
    ATTENTION,
    CHUNK,
    first_cell,
    last_unseen,
    n_parts,
    part_end,
    part_start,
    to_weights,
)
from graphsched.backends.cpu.attention.split_kv import TOP_AND_TOTAL
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.mathfn import NEVER, one_exp, scale_row, tanh
from graphsched.backends.cpu.language.simd import (
    fma,
    get,
    load,
    load_first,
    max_lanes,
    put,
    splat,
    store,
    store_first,
    sum_lanes,
    word,
)
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, rows
from graphsched.backends.cpu.program.layout import ABORT, N_KV

TILE = 4
META = 64  # bytes per query: sequence, position, oldest position seen, then top and total
TOP, TOTAL = 12, 16


def tile_bytes(v_dim: int) -> int:
    """Scratch per thread: the queries' state, scores, indices of cells, sums of values."""
    return TILE * META + 4 * CHUNK * (TILE + 1) + 4 * TILE * v_dim


@helper
def start_query(meta: int, acc: int, at: int, oldest: int, sink: float, has_sink: int, v_dim: int) -> None:
    put(meta, get(at, I32), I32)
    put(meta + 4, get(at + 4, I32), I32)
    put(meta + 8, oldest, I32)
    put(meta + TOP, sink if has_sink else NEVER, F32)
    put(meta + TOTAL, np.float32(1.0) if has_sink else np.float32(0.0), F32)
    for i in range(v_dim):
        put(acc + 4 * i, 0.0, F32)


@helper
def sees(meta: int, cell: int) -> bool:
    at = get(cell + 4, I32)
    return get(cell, I32) == get(meta, I32) and at <= get(meta + 4, I32) and at > get(meta + 8, I32)


@helper
def seen_cells(meta: int, cells: int, first: int, n: int, indices: int) -> int:
    """Lists the cells of a chunk that any of the queries sees; returns how many."""
    m = 0
    for j in range(first, first + n):
        cell = cells + 8 * j
        if (
            sees(meta, cell)
            or sees(meta + META, cell)
            or sees(meta + 2 * META, cell)
            or sees(meta + 3 * META, cell)
        ):
            put(indices + 4 * m, j, I32)
            m += 1
    return m


@helper
def put_score(at: int, meta: int, cell: int, s: float, cap: float) -> None:
    if not sees(meta, cell):
        put(at, NEVER, F32)
    elif cap > 0.0:
        put(at, cap * max_lanes(tanh(splat(s / cap, 16))), F32)
    else:
        put(at, s, F32)


@helper
def to_probabilities(meta: int, scores: int, m: int, acc: int, v_dim: int) -> None:
    """Scores become weights against the highest score so far; what was summed before is scaled to it."""
    peak = NEVER
    for j in range(m):
        s = get(scores + 4 * j, F32)
        if s > peak:
            peak = s
    if peak == NEVER:
        for j in range(m):
            put(scores + 4 * j, 0.0, F32)
        return
    top = get(meta + TOP, F32)
    if peak > top:
        factor = one_exp(top - peak)
        put(meta + TOTAL, get(meta + TOTAL, F32) * factor, F32)
        scale_row(acc, factor, v_dim)
        put(meta + TOP, peak, F32)
        top = peak
    put(meta + TOTAL, get(meta + TOTAL, F32) + to_weights(scores, m, top), F32)


@kernel(ATTENTION)
def flash_attn_tile(key_kind: int, value_kind: int, split: int) -> Callable[..., None]:
    """With `split` y takes each part's sums (`merge_parts`)."""
    k_size, v_size = 4 if key_kind == F32 else 2, 4 if value_kind == F32 else 2

    def attention(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        meta = a.scratch + ith * a.per_thread
        indices = meta + TILE * META
        s0 = indices + 4 * CHUNK
        s1, s2, s3, acc = s0 + 4 * CHUNK, s0 + 8 * CHUNK, s0 + 12 * CHUNK, s0 + 16 * CHUNK
        a1, a2, a3 = acc + 4 * a.v_dim, acc + 8 * a.v_dim, acc + 12 * a.v_dim
        n_kv, n_q = word(run, N_KV), rows(step, run) * a.group
        oldest_cell = first_cell(n_kv, a.size)
        tiles = (n_q + TILE - 1) // TILE
        full, v_full = a.dim // 16 * 16, a.v_dim // 32 * 32
        parts = n_parts(n_kv, a.size) if split else 1
        units, unit = tiles * (a.heads // a.group) * parts, next_unit(step)  # late queries see more
        while unit < units and not word(run, ABORT):
            kv_head, base, part = unit // parts // tiles, unit // parts % tiles * TILE, unit % parts
            begin, end = oldest_cell // CHUNK * CHUNK, n_kv
            if split:
                begin, end = part_start(n_kv, a.size, part), part_end(n_kv, a.size, part)
            keys, values = a.k + kv_head * a.k_head, a.v + kv_head * a.v_head
            for s in range(TILE):
                i = min(base + s, n_q - 1)
                t, h = i // a.group, kv_head * a.group + i % a.group
                pos = get(a.where + 8 * t + 4, I32)
                oldest = last_unseen(pos, a.window, a.chunk)
                sink = get(a.sinks + 4 * h, F32) if a.sinks else np.float32(0.0)
                start_query(
                    meta + META * s, acc + 4 * a.v_dim * s, a.where + 8 * t, oldest, sink, a.sinks, a.v_dim
                )
            i1, i2, i3 = min(base + 1, n_q - 1), min(base + 2, n_q - 1), min(base + 3, n_q - 1)
            first_q = a.q + kv_head * a.group * a.q_head
            q0 = first_q + base // a.group * a.q_token + base % a.group * a.q_head
            q1 = first_q + i1 // a.group * a.q_token + i1 % a.group * a.q_head
            q2 = first_q + i2 // a.group * a.q_token + i2 % a.group * a.q_head
            q3 = first_q + i3 // a.group * a.q_token + i3 % a.group * a.q_head
            for c in range(begin, end, CHUNK):
                first = c if c > oldest_cell else oldest_cell
                m = seen_cells(meta, a.cells, first % a.size, c + min(CHUNK, end - c) - first, indices)
                if m == 0:
                    continue
                for j in range(m):
                    index = get(indices + 4 * j, I32)
                    key, cell = keys + index * a.k_token, a.cells + 8 * index
                    d0 = d1 = d2 = d3 = splat(0.0, 16)
                    for i in range(0, full, 16):
                        u = load(key + k_size * i, key_kind, 16)
                        d0, d1 = fma(u, load(q0 + 4 * i, F32, 16), d0), fma(u, load(q1 + 4 * i, F32, 16), d1)
                        d2, d3 = fma(u, load(q2 + 4 * i, F32, 16), d2), fma(u, load(q3 + 4 * i, F32, 16), d3)
                    if full < a.dim:
                        left, i = a.dim - full, full
                        u = load_first(key + k_size * i, key_kind, 16, left)
                        d0 = fma(u, load_first(q0 + 4 * i, F32, 16, left), d0)
                        d1 = fma(u, load_first(q1 + 4 * i, F32, 16, left), d1)
                        d2 = fma(u, load_first(q2 + 4 * i, F32, 16, left), d2)
                        d3 = fma(u, load_first(q3 + 4 * i, F32, 16, left), d3)
                    put_score(s0 + 4 * j, meta, cell, sum_lanes(d0) * a.scale, a.cap)
                    put_score(s1 + 4 * j, meta + META, cell, sum_lanes(d1) * a.scale, a.cap)
                    put_score(s2 + 4 * j, meta + 2 * META, cell, sum_lanes(d2) * a.scale, a.cap)
                    put_score(s3 + 4 * j, meta + 3 * META, cell, sum_lanes(d3) * a.scale, a.cap)
                to_probabilities(meta, s0, m, acc, a.v_dim)
                to_probabilities(meta + META, s1, m, a1, a.v_dim)
                to_probabilities(meta + 2 * META, s2, m, a2, a.v_dim)
                to_probabilities(meta + 3 * META, s3, m, a3, a.v_dim)
                for i in range(0, v_full, 32):
                    o = 4 * i
                    b00, b01 = load(acc + o, F32, 16), load(acc + o + 64, F32, 16)
                    b10, b11 = load(a1 + o, F32, 16), load(a1 + o + 64, F32, 16)
                    b20, b21 = load(a2 + o, F32, 16), load(a2 + o + 64, F32, 16)
                    b30, b31 = load(a3 + o, F32, 16), load(a3 + o + 64, F32, 16)
                    for j in range(m):
                        value = values + get(indices + 4 * j, I32) * a.v_token + v_size * i
                        u, w = load(value, value_kind, 16), load(value + v_size * 16, value_kind, 16)
                        p = splat(get(s0 + 4 * j, F32), 16)
                        b00, b01 = fma(u, p, b00), fma(w, p, b01)
                        p = splat(get(s1 + 4 * j, F32), 16)
                        b10, b11 = fma(u, p, b10), fma(w, p, b11)
                        p = splat(get(s2 + 4 * j, F32), 16)
                        b20, b21 = fma(u, p, b20), fma(w, p, b21)
                        p = splat(get(s3 + 4 * j, F32), 16)
                        b30, b31 = fma(u, p, b30), fma(w, p, b31)
                    store(acc + o, b00, F32)
                    store(acc + o + 64, b01, F32)
                    store(a1 + o, b10, F32)
                    store(a1 + o + 64, b11, F32)
                    store(a2 + o, b20, F32)
                    store(a2 + o + 64, b21, F32)
                    store(a3 + o, b30, F32)
                    store(a3 + o + 64, b31, F32)
                for i in range(v_full, a.v_dim, 16):
                    left, o = min(16, a.v_dim - i), 4 * i
                    b00, b10 = load_first(acc + o, F32, 16, left), load_first(a1 + o, F32, 16, left)
                    b20, b30 = load_first(a2 + o, F32, 16, left), load_first(a3 + o, F32, 16, left)
                    for j in range(m):
                        value = values + get(indices + 4 * j, I32) * a.v_token + v_size * i
                        u = load_first(value, value_kind, 16, left)
                        b00 = fma(u, splat(get(s0 + 4 * j, F32), 16), b00)
                        b10 = fma(u, splat(get(s1 + 4 * j, F32), 16), b10)
                        b20 = fma(u, splat(get(s2 + 4 * j, F32), 16), b20)
                        b30 = fma(u, splat(get(s3 + 4 * j, F32), 16), b30)
                    store_first(acc + o, b00, F32, left)
                    store_first(a1 + o, b10, F32, left)
                    store_first(a2 + o, b20, F32, left)
                    store_first(a3 + o, b30, F32, left)
            for s in range(min(TILE, n_q - base)):
                i, total = base + s, get(meta + META * s + TOTAL, F32)
                src = acc + 4 * a.v_dim * s
                factor = np.float32(1.0) / total if total > 0.0 else np.float32(0.0)
                dst = a.y + 4 * a.v_dim * (i // a.group * a.heads + kv_head * a.group + i % a.group)
                if split:
                    factor = np.float32(1.0)
                    dst = a.y + 4 * (part * a.heads + kv_head * a.group + i) * (a.v_dim + TOP_AND_TOTAL)
                    put(dst + 4 * a.v_dim, get(meta + META * s + TOP, F32), F32)
                    put(dst + 4 * a.v_dim + 4, total, F32)
                for e in range(a.v_dim):
                    put(dst + 4 * e, get(src + 4 * e, F32) * factor, F32)
            unit = next_unit(step)

    return attention
