"""Flash attention over the cells of sequences: softmax and sums of values in one pass over chunks of positions.

Positions pass in fixed chunks, in order, whatever the thread count and the other queries of a run. Here are the
queries of a single token: a unit is one, or a tile of 4 that share a KV head, and a chunk of the positions (split_kv).
A chunk's scores stay in cache between the passes over it. Those of several tokens are in `blocks`.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.attention import blocks
from graphsched.backends.cpu.attention.blocks import flash_attn_blocks
from graphsched.backends.cpu.attention.common import (
    ALIGN,
    ATTENTION,
    CHUNK,
    SCORES,
    in_whole_blocks,
    kv_chunk_range,
    lean,
    n_kv_chunks,
    query_at,
    slope,
)
from graphsched.backends.cpu.attention.split_kv import TOP_AND_TOTAL, merge_chunks, partials_floats, splits_kv
from graphsched.backends.cpu.attention.tile import TILE, Chunk, add_values, put_scores, scratch_bytes
from graphsched.backends.cpu.formats.writers import CACHE_TYPES
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import clear, put_scaled
from graphsched.backends.cpu.language.simd import get, put, word
from graphsched.backends.cpu.language.soft_max import NEVER, ONE, ZERO, weigh_chunk
from graphsched.backends.cpu.language.tile import each_row
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType, f32
from graphsched.types import dtypes


@kernel(ATTENTION)
def flash_attn(tile: int, key_kind: int, value_kind: int, split: int) -> Callable[..., None]:
    """y[h] = softmax(scale · q[h] · kᵀ) · v for tiles of queries; with `split` y takes the sums of each chunk."""

    def attention(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        scores, seen = a.scratch + ith * a.per_thread, query_at(a.where, a.window, a.chunk)
        tiles, kv_chunks = (a.group + tile - 1) // tile, n_kv_chunks(seen) if split else 1
        units, unit = tiles * (a.heads // a.group) * kv_chunks, next_unit(step)
        while unit < units and not word(run, ABORT):
            kv_head, kv_chunk = unit // kv_chunks // tiles, unit % kv_chunks
            numbers = query_numbers(tile, unit // kv_chunks % tiles * tile, a.group)
            out = results_at(tile, a, numbers, kv_head, kv_chunk, split)
            sums = sums_at(tile, out, scores + SCORES * (tile + 1) if tile > 1 else 0, a.v_dim)
            state, queries = start(tile, a, numbers, kv_head, sums), queries_at(tile, a, numbers, kv_head)
            begin, end = kv_chunk_range(seen, kv_chunk) if split else (seen[2] + 1, seen[1] + 1)
            for first in range(begin // CHUNK * CHUNK, end, CHUNK):
                span = max(first, begin // ALIGN * ALIGN), min(first + CHUNK, end)
                piece = chunk_at(a, kv_head, scores, span, a.table + 4 * seen[3], seen[2])
                n = put_scores(tile, key_kind, piece, queries, a.dim, a.scale)
                if a.max_bias > 0.0:
                    lean_rows(tile, a, numbers, kv_head, scores, span[0], n, seen[1])
                state = weigh(tile, scores, n, a.cap, state, sums, a.v_dim)
                add_values(tile, value_kind, piece, n, sums, a.v_dim)
            finish(tile, numbers, state, sums, out, a.v_dim, split)
            unit = next_unit(step)

    return attention


@each_row
def query_numbers(r: int, first: int, n: int) -> int:
    """The numbers of a tile's queries, -1 behind the last one."""
    return first + r if first + r < n else -1


@each_row
def results_at(r: int, a: Any, numbers: Any, kv_head: int, kv_chunk: int, split: int) -> int:
    """Where the result of a query goes: its sums of a chunk, or its row of y."""
    h = kv_head * a.group + numbers[r]
    if split:
        return a.y + 4 * (kv_chunk * a.heads + h) * (a.v_dim + TOP_AND_TOTAL)
    return a.y + 4 * h * a.v_dim


@each_row
def sums_at(r: int, out: Any, scratch: int, v_dim: int) -> int:
    """Where a query's sums of values are: in scratch, or where its result goes if there is none."""
    return scratch + 4 * v_dim * r if scratch else out[r]


@helper
def chunk_at(a: Any, kv_head: int, scores: int, span: tuple[int, int], table: int, unseen: int) -> Chunk:
    """Positions [first, end) of a KV head, of which those up to `unseen` are not seen."""
    keys, values = a.k + kv_head * a.k_head, a.v + kv_head * a.v_head
    return Chunk(span[0], span[1], keys, a.k_token, values, a.v_token, table, unseen, scores)


@each_row
def queries_at(r: int, a: Any, numbers: Any, kv_head: int) -> int:
    """Addresses of queries; behind the last one it is the first of the tile again."""
    return a.q + (kv_head * a.group + (numbers[r] if numbers[r] >= 0 else numbers[0])) * a.q_head


@each_row
def start(r: int, a: Any, numbers: Any, kv_head: int, sums: Any) -> tuple[Any, Any]:
    """(top, total) before the first chunk: those of the sink, if there is one. Clears the sums."""
    clear(a.v_dim, sums[r])
    if a.sinks and numbers[r] >= 0:
        return get(a.sinks + 4 * (kv_head * a.group + numbers[r]), F32), ONE
    return NEVER, ZERO


@each_row
def lean_rows(
    r: int, a: Any, numbers: Any, kv_head: int, scores: int, first: int, n: int, position: int
) -> int:
    """Adds ALiBi's biases to the scores of each query of the token at a position."""
    head = kv_head * a.group + numbers[r]
    lean(n, scores + SCORES * r, slope(a.max_bias, head, a.heads), first, position)
    return n


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


@ops.flash_attn_ext.lowering(
    "cpu", when=in_whole_blocks, strided=("q", "k", "v"), k=CACHE_TYPES, v=CACHE_TYPES
)
def _(low: Low, node: Tensor) -> None:
    q, k, v, where, table, *sinks = map(low.operand, node.sources)
    a, group, kinds = node.attrs, q.type.shape[1] // k.type.shape[1], (k.type.dtype.id, v.type.dtype.id)
    if int(q.type.shape[0]) > 1:
        dims, queries = (q.type.shape[2], v.type.shape[2]), int(q.type.shape[0]) * group
        kernel, per_thread = flash_attn_blocks(*kinds), blocks.scratch_bytes(*dims, queries)
    else:
        # Four queries share what they read of a KV head; the tile needs types that load as lanes.
        tile = TILE if group >= 4 and k.type.dtype.block == v.type.dtype.block == 1 else 1
        kernel, per_thread = (
            flash_attn(tile, *kinds, int(splits_kv(node))),
            scratch_bytes(tile, v.type.shape[2]),
        )
    scratch = low.scratch("scores", TensorType(dtypes.I8, (low.n_threads, per_thread)))
    split, sink, y = splits_kv(node), sinks[0] if sinks else None, low.result(node)
    sums = low.scratch("sums of chunks", f32(partials_floats(node))) if split else y
    low.step(
        kernel,
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
        max_bias=a["max_bias"],
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
