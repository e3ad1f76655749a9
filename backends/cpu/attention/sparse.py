"""Sparse attention: a token's head passes over the positions whose bits are set, CHUNK at a time; also over a window
and rows that stand for several positions each.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.attention.common import CHUNK, WHERE, cell_at, in_whole_blocks
from graphsched.backends.cpu.attention.kv import add_scaled, dot_kv
from graphsched.backends.cpu.formats.writers import CACHE_TYPES
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import clear
from graphsched.backends.cpu.language.simd import get, put, put_word, word
from graphsched.backends.cpu.language.soft_max import NEVER, ONE, ZERO, scale_row, weigh_chunk
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, rows
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes
from graphsched.types.extents import CELL_BLOCK

SCORES = 4 * (CHUNK + 16)  # bytes of a chunk's scores, padded to full vectors; behind them are its cells
PER_THREAD = SCORES + 4 * CHUNK


@kernel(
    "q k v where table chosen -> y scratch"
    " | dim v_dim group heads q_token q_head k_token k_head v_token v_head words groups | scale"
)
def sparse_attn(key_kind: int, value_kind: int) -> Callable[..., None]:
    """y[t, h] = softmax(scale · q[t, h] · kᵀ) · v over the chosen positions."""

    def attention(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        units, unit, mine = rows(step, run) * a.heads, next_unit(step), a.scratch + ith * PER_THREAD
        while unit < units and not word(run, ABORT):
            attend(key_kind, value_kind, a, unit // a.heads, unit % a.heads, mine)
            unit = next_unit(step)

    return attention


@helper
def attend(key_kind: int, value_kind: int, a: Any, t: int, h: int, scratch: int) -> None:
    """One token's head."""
    kv, y = h // a.group, a.y + 4 * (t * a.heads + h) * a.v_dim
    query, keys, values = a.q + t * a.q_token + h * a.q_head, a.k + kv * a.k_head, a.v + kv * a.v_head
    end, table = get(a.where + WHERE * t + 4, I32) + 1, a.table + 4 * get(a.where + WHERE * t + 8, I32)
    bits = a.chosen + 4 * a.words * (t * a.groups + (kv if a.groups > 1 else 0))
    clear(a.v_dim, y)
    top, total, position = NEVER, ZERO, 0
    while position < end:
        n, position = list_chosen(bits, table, position, end, scratch + SCORES)
        for j in range(n):
            key = keys + get(scratch + SCORES + 4 * j, I32) * a.k_token
            put(scratch + 4 * j, dot_kv(key_kind, key, query, a.dim) * a.scale, F32)
        top, total = weigh_chunk(scratch, n, ZERO, top, total, y, a.v_dim)
        for j in range(n):
            value = values + get(scratch + SCORES + 4 * j, I32) * a.v_token
            add_scaled(value_kind, value, get(scratch + 4 * j, F32), y, a.v_dim)
    if total > ZERO:
        scale_row(a.v_dim, y, ONE / total)


@helper
def list_chosen(bits: int, table: int, position: int, end: int, cells: int) -> tuple[int, int]:
    """Lists the cells of chosen positions from `position` on; (how many, where to go on), at the latest at `end`."""
    n = 0
    while position < end and n <= CHUNK - CELL_BLOCK:
        chosen = get(bits + position // CELL_BLOCK * 4, I32)
        first = get(table + position // CELL_BLOCK * 4, I32) * CELL_BLOCK
        for i in range(min(CELL_BLOCK, end - position)):
            if (chosen >> i) & 1:
                put(cells + 4 * n, first + i, I32)
                n += 1
        position += CELL_BLOCK
    return n, position


@ops.sparse_attn.lowering("cpu", when=in_whole_blocks, strided=("q", "k", "v"), k=CACHE_TYPES, v=CACHE_TYPES)
def _(low: Low, node: Tensor) -> None:
    q, k, v, where, table, chosen = map(low.operand, node.sources)
    low.step(
        sparse_attn(k.type.dtype.id, v.type.dtype.id),
        q=q,
        k=k,
        v=v,
        where=where,
        table=table,
        chosen=chosen,
        y=low.result(node),
        scratch=low.scratch("scores", TensorType(dtypes.I8, (low.n_threads, PER_THREAD))),
        dim=q.type.shape[2],
        v_dim=v.type.shape[2],
        group=q.type.shape[1] // k.type.shape[1],
        **row_strides(q=q, k=k, v=v),
        words=chosen.type.shape[2],
        groups=chosen.type.shape[1],
        scale=node.attrs["scale"],
        rows=rows_of(where.type),
    )


ROWS = SCORES + 8 * CHUNK  # scratch of compressed attention: scores, and addresses of rows


@kernel(
    "q k where table c c_where c_table sinks chosen? -> y scratch"
    " | dim heads q_token q_head k_token c_token words window size | scale"
)
def compressed_attn(kind: int) -> Callable[..., None]:
    """y[t, h] = softmax(scale · q[t, h] · rowᵀ) · row over a window, rows of complete units, and a sink."""

    def attention(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        units, unit, mine = rows(step, run) * a.heads, next_unit(step), a.scratch + ith * ROWS
        while unit < units and not word(run, ABORT):
            over_window_and_units(kind, a, unit // a.heads, unit % a.heads, mine)
            unit = next_unit(step)

    return attention


@helper
def over_window_and_units(kind: int, a: Any, t: int, h: int, scratch: int) -> None:
    """One token's head: positions of the window, then ends of units, each in order."""
    y, query = a.y + 4 * (t * a.heads + h) * a.dim, a.q + t * a.q_token + h * a.q_head
    end, near = get(a.where + WHERE * t + 4, I32) + 1, a.table + 4 * get(a.where + WHERE * t + 8, I32)
    far, bits = a.c_table + 4 * get(a.c_where + WHERE * t + 8, I32), a.chosen + 4 * a.words * t
    clear(a.dim, y)
    top, total, i, n = get(a.sinks + 4 * h, F32), ONE, 0, 0
    first = max(end - a.window, 0)
    both = end - first + end // a.size
    while i < both:
        if i < end - first:
            put_word(scratch + SCORES + 8 * n, a.k + cell_at(near, first + i) * a.k_token)
            n += 1
        else:
            p = (i - (end - first)) * a.size + a.size - 1
            if a.chosen == 0 or (get(bits + p // CELL_BLOCK * 4, I32) >> (p % CELL_BLOCK)) & 1:
                put_word(scratch + SCORES + 8 * n, a.c + cell_at(far, p) * a.c_token)
                n += 1
        i += 1
        if n == CHUNK or (i == both and n > 0):
            top, total = over_rows(kind, a, query, n, scratch, top, total, y)
            n = 0
    scale_row(a.dim, y, ONE / total)


@helper
def over_rows(
    kind: int, a: Any, query: int, n: int, scratch: int, top: float, total: float, y: int
) -> tuple[Any, Any]:
    """Adds n listed rows to y; the new (top, total)."""
    for j in range(n):
        put(scratch + 4 * j, dot_kv(kind, word(scratch + SCORES, j), query, a.dim) * a.scale, F32)
    top, total = weigh_chunk(scratch, n, ZERO, top, total, y, a.dim)
    for j in range(n):
        add_scaled(kind, word(scratch + SCORES, j), get(scratch + 4 * j, F32), y, a.dim)
    return top, total


def _is_one_type(node: Tensor) -> bool:
    k, c = node.sources[1], node.sources[4]
    return k.dtype == c.dtype and k.shape[-1] % k.dtype.block == 0


@ops.compressed_attn.lowering("cpu", when=_is_one_type, strided=("q", "k", "c"), k=CACHE_TYPES)
def _(low: Low, node: Tensor) -> None:
    q, k, where, table, c, c_where, c_table, sinks, *chosen = map(low.operand, node.sources)
    low.step(
        compressed_attn(k.type.dtype.id),
        q=q,
        k=k,
        where=where,
        table=table,
        c=c,
        c_where=c_where,
        c_table=c_table,
        sinks=sinks,
        chosen=chosen[0] if chosen else None,
        y=low.result(node),
        scratch=low.scratch("rows", TensorType(dtypes.I8, (low.n_threads, ROWS))),
        dim=q.type.shape[2],
        heads=q.type.shape[1],
        q_token=q.strides[0],
        q_head=q.strides[1],
        k_token=k.strides[0],
        c_token=c.strides[0],
        words=chosen[0].type.shape[2] if chosen else 0,
        window=node.attrs["window"],
        size=node.attrs["size"],
        scale=node.attrs["scale"],
        rows=rows_of(where.type),
    )
