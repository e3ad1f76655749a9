"""Flash attention over the cells of sequences: softmax and sums of values in one pass over chunks of positions.

Positions pass in fixed chunks, in order, whatever the thread count and the other queries of a run. A unit is a tile of
queries that share a KV head, 4 for prompts and 1 otherwise; of a single token also a chunk of the positions (split_kv).
A chunk's scores stay in cache between the passes over it. The mask is computed, never stored.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.attention.common import (
    ALIGN,
    ATTENTION,
    CHUNK,
    WHERE,
    Query,
    kv_chunk_range,
    n_kv_chunks,
    query_at,
)
from graphsched.backends.cpu.attention.split_kv import TOP_AND_TOTAL, merge_chunks, partials_floats, splits_kv
from graphsched.backends.cpu.attention.tile import SCORES, TILE, Chunk, add_values, put_scores, scratch_bytes
from graphsched.backends.cpu.formats.writers import CACHE_TYPES
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.simd import get, mul, put, splat, word
from graphsched.backends.cpu.language.soft_max import NEVER, ONE, ZERO, weigh_chunk
from graphsched.backends.cpu.language.tile import each_row, unrolled
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, rows
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType, f32
from graphsched.types import dtypes

NONE = 1 << 40  # above every slot and position


@kernel(ATTENTION)
def flash_attn(tile: int, key_kind: int, value_kind: int, split: int) -> Callable[..., None]:
    """y[t, h] = softmax(scale · q[t, h] · kᵀ) · v for tiles of queries; with `split` y takes the sums of each chunk."""

    def attention(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        n_q, scores = (
            rows(step, run) * a.group,
            a.scratch + ith * a.per_thread,
        )  # a KV head's, numbered by token
        tiles = (n_q + tile - 1) // tile
        kv_chunks = n_kv_chunks(query_at(a.where, a.window, a.chunk)) if split else 1
        units, unit = tiles * (a.heads // a.group) * kv_chunks, next_unit(step)  # late queries see more
        while unit < units and not word(run, ABORT):
            kv_head, kv_chunk = unit // kv_chunks // tiles, unit % kv_chunks
            numbers = query_numbers(tile, unit // kv_chunks % tiles * tile, n_q)
            queries, seen_by = queries_at(tile, a, numbers, kv_head), seen(tile, a, numbers)
            out = results_at(tile, a, numbers, kv_head, kv_chunk, split)
            sums = sums_at(tile, out, scores + SCORES * (tile + 1) if tile > 1 else 0, a.v_dim)
            state = start(tile, a, numbers, kv_head, sums)
            slot = next_slot(tile, NONE, seen_by, -1)
            while slot != NONE:  # the queries of a tile may be of several sequences
                begin, end, entry = passed(tile, (NONE, 0, 0), seen_by, slot)
                if split:
                    begin, end = kv_chunk_range(seen_by[0], kv_chunk)
                for first in range(begin // CHUNK * CHUNK, end, CHUNK):
                    span = max(first, begin // ALIGN * ALIGN), min(first + CHUNK, end)
                    piece = chunk_at(a, kv_head, scores, span, a.table + 4 * entry, slot)
                    n = put_scores(tile, key_kind, piece, queries, seen_by, a.dim, a.scale)
                    state = weigh(tile, scores, n, a.cap, state, sums, a.v_dim)
                    add_values(tile, value_kind, piece, n, sums, a.v_dim)
                slot = next_slot(tile, NONE, seen_by, slot)
            finish(tile, numbers, state, sums, out, a.v_dim, split)
            unit = next_unit(step)

    return attention


@unrolled
def next_slot(r: int, found: int, seen_by: Any, last: int) -> int:
    """The lowest slot above `last` of the queries' sequences; called with (queries, NONE, ...)."""
    return min(found, seen_by[r][0]) if seen_by[r][0] > last else found


@unrolled
def passed(r: int, so_far: tuple[int, int, int], seen_by: Any, slot: int) -> tuple[int, int, int]:
    """(first, end) of the positions that queries of a sequence see, and the first entry of its table."""
    query = seen_by[r]
    if query[0] != slot:
        return so_far
    return min(so_far[0], query[2] + 1), max(so_far[1], query[1] + 1), query[3]


@each_row
def query_numbers(r: int, first: int, n: int) -> int:
    """The numbers of a tile's queries, -1 behind the last one."""
    return first + r if first + r < n else -1


@each_row
def results_at(r: int, a: Any, numbers: Any, kv_head: int, kv_chunk: int, split: int) -> int:
    """Where the result of a query goes: its sums of a chunk, or its row of y."""
    t, h = numbers[r] // a.group, kv_head * a.group + numbers[r] % a.group
    if split:
        return a.y + 4 * (kv_chunk * a.heads + h) * (a.v_dim + TOP_AND_TOTAL)
    return a.y + 4 * (t * a.heads + h) * a.v_dim


@each_row
def sums_at(r: int, out: Any, scratch: int, v_dim: int) -> int:
    """Where a query's sums of values are: in scratch, or where its result goes if there is none."""
    return scratch + 4 * v_dim * r if scratch else out[r]


@helper
def chunk_at(a: Any, kv_head: int, scores: int, span: tuple[int, int], table: int, slot: int) -> Chunk:
    """Positions [first, end) of a KV head of a sequence."""
    keys, values = a.k + kv_head * a.k_head, a.v + kv_head * a.v_head
    return Chunk(span[0], span[1], keys, a.k_token, values, a.v_token, table, slot, scores)


@each_row
def queries_at(r: int, a: Any, numbers: Any, kv_head: int) -> int:
    """Addresses of queries; behind the last one it is the first of the tile again."""
    i = numbers[r] if numbers[r] >= 0 else numbers[0]
    return a.q + i // a.group * a.q_token + (kv_head * a.group + i % a.group) * a.q_head


@each_row
def seen(r: int, a: Any, numbers: Any) -> Query:
    """What each query sees (`query_at`); behind the last one what the first of the tile sees."""
    i = numbers[r] if numbers[r] >= 0 else numbers[0]
    return query_at(a.where + WHERE * (i // a.group), a.window, a.chunk)


@each_row
def start(r: int, a: Any, numbers: Any, kv_head: int, sums: Any) -> tuple[Any, Any]:
    """(top, total) before the first chunk: those of the sink, if there is one. Clears the sums."""
    for i in range(a.v_dim):
        put(sums[r] + 4 * i, 0.0, F32)
    if a.sinks and numbers[r] >= 0:
        return get(a.sinks + 4 * (kv_head * a.group + numbers[r] % a.group), F32), ONE
    return NEVER, ZERO


@each_row
def weigh(r: int, scores: int, n: int, cap: float, state: Any, sums: Any, v_dim: int) -> tuple[float, float]:
    """Turns a query's scores into weights; returns its new (top, total)."""
    top, total = state[r]
    return weigh_chunk(scores + SCORES * r, n, cap, top, total, sums[r], v_dim)


@each_row
def finish(r: int, numbers: Any, state: Any, sums: Any, out: Any, v_dim: int, split: int) -> int:
    """Writes a query's result: sums over their total, or the sums of a chunk with its top and total behind them."""
    top, total = state[r]
    if numbers[r] < 0:
        return 0
    if split:
        put_scaled(v_dim, sums[r], out[r], ONE)
        put(out[r] + 4 * v_dim, top, F32)
        put(out[r] + 4 * v_dim + 4, total, F32)
    else:
        factor = ONE / total if total > 0.0 else ZERO
        put_scaled(v_dim, sums[r], out[r], factor)
    return 1


@for_lanes(16)
def put_scaled(i: int, block: Any, x: int, y: int, factor: float) -> None:
    """y = factor · x; called with (n, x, y, factor)."""
    store_lanes(y + 4 * i, mul(load_lanes(x + 4 * i, F32, block), splat(factor, 16)), F32, block)


def _fits(node: Tensor) -> bool:
    """Block types need whole blocks per head."""
    k, v = node.sources[1:3]
    return all(s.shape[-1] % s.dtype.block == 0 for s in (k, v))


@ops.flash_attn_ext.lowering("cpu", when=_fits, strided=("q", "k", "v"), k=CACHE_TYPES, v=CACHE_TYPES)
def _(low: Low, node: Tensor) -> None:
    q, k, v, where, table, *sinks = map(low.operand, node.sources)
    a, group = node.attrs, q.type.shape[1] // k.type.shape[1]
    # Four queries share what they read of a KV head; the tile needs types that load as lanes.
    tiled = (int(q.type.shape[0]) > 1 or group >= 4) and k.type.dtype.block == v.type.dtype.block == 1
    tile = TILE if tiled else 1
    per_thread = scratch_bytes(tile, v.type.shape[2])
    scratch = low.scratch("scores", TensorType(dtypes.I8, (low.n_threads, per_thread)))
    split, sink, y = splits_kv(node), sinks[0] if sinks else None, low.result(node)
    sums = low.scratch("sums of chunks", f32(partials_floats(node))) if split else y
    low.step(
        flash_attn(tile, k.type.dtype.id, v.type.dtype.id, int(split)),
        q=q,
        k=k,
        v=v,
        where=where,
        table=table,
        y=sums,
        scratch=scratch,
        sinks=None if split else sink,
        dim=q.type.shape[2],
        v_dim=v.type.shape[2],
        group=group,
        **row_strides(q=q, k=k, v=v),
        window=a["window"],
        chunk=a["chunk"],
        per_thread=per_thread,
        scale=a["scale"],
        cap=a["softcap"],
        rows=rows_of(node.sources[3].type),
    )
    if split:
        low.step(
            merge_chunks(),
            sums=sums,
            where=where,
            sinks=sink,
            y=y,
            v_dim=v.type.shape[2],
            window=a["window"],
            chunk=a["chunk"],
            over=node.type,
        )
