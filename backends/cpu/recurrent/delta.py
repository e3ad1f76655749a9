"""The gated delta rule: each row of a head's matrix is decayed, read with k, changed and read with q.

A row depends on k, q, the decay and β, and on no other row: a unit is a part of a head's rows for all tokens of a run.
Token by token that part stays in the first cache. What a token does depends on its own sequence only, so that a
sequence has the same bits alone, among others, and cut anywhere.

Where 16 or more tokens of a sequence are in one run, each 16 from the first one on are a chunk (`delta_chunk`, or
`channel_chunk` with a decay per element of k), and what is left goes token by token. These bits depend on how the
sequence is cut into runs, and on no other sequence. As chunks take half of the time, the lowering asks for them
(`chunked`) wherever matrices fill whole panels.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import clear, fold_lanes, for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.mathfn import exp
from graphsched.backends.cpu.language.prefetch import ask_ahead
from graphsched.backends.cpu.language.simd import fma, get, load, mul, splat, store, sub, word
from graphsched.backends.cpu.language.soft_max import one_exp
from graphsched.backends.cpu.language.tile import columns, load_rows, row_starts, row_sums, store_rows, zeros
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, rows
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.backends.cpu.recurrent.channel_chunk import channel_chunks, channel_room_bytes
from graphsched.backends.cpu.recurrent.common import (
    PART,
    TILE,
    by_tile,
    dots,
    is_first,
    matrix_at,
    run_end,
    where_args,
)
from graphsched.backends.cpu.recurrent.delta_chunk import delta_chunks
from graphsched.backends.cpu.recurrent.panels import CHUNK, room_bytes, rows_of_unit, takes_chunks
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes

# Strides and per_thread (scratch of each thread) in bytes, dk and dv in elements. keys: heads of q and k;
# part: rows of a head's matrix that are a unit.
DELTA = (
    "q k v g beta where -> state y scratch"
    " | heads keys dk dv q_token q_head k_token k_head v_token v_head g_token g_head beta_token where_row part"
    " per_thread"
    " | scale"
)


@kernel(DELTA)
def gated_delta_net_f32(by_channel: int, tiled: int, chunked: int) -> Callable[..., None]:
    """y[t, h] = S·q / sqrt(dk) with S = e^g S + β (v - e^g S·k) kᵀ; g per element of k if by_channel."""

    def delta(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        n, parts, own = rows(step, run), (a.dv + a.part - 1) // a.part, a.scratch + ith * a.per_thread
        unit = next_unit(step)
        while unit < a.heads * parts and not word(run, ABORT):
            head, first = unit // parts, unit % parts * a.part
            key, size = head % a.keys if tiled else head // (a.heads // a.keys), min(a.part, a.dv - first)
            t = 0
            while t < n:
                end = run_end(a.where, a.where_row, t, n)
                if chunked and end - t >= CHUNK:
                    matrix = matrix_at(a, a.dv, a.dk, t, head, first)
                    if by_channel:
                        t = channel_chunks(a, matrix, a.dk, t, end, head, key, first, size, own)
                    else:
                        t = delta_chunks(a, matrix, a.dk, t, end, head, key, first, size, own)
                for u in range(t, end):
                    one_token(by_channel, a, u, head, key, first, size, own)
                t = end
            unit = next_unit(step)

    return delta


@helper
def one_token(by_channel: int, a: Any, t: int, head: int, key: int, first: int, n: int, scratch: int) -> None:
    """Token t changes and reads n rows of a head's matrix, from row `first`."""
    k, q = a.k + t * a.k_token + key * a.k_head, a.q + t * a.q_token + key * a.q_head
    matrix = matrix_at(a, a.dv, a.dk, t, head, first)
    if is_first(a.where, a.where_row, t):
        clear(n * a.dk, matrix)
    decay, decayed, change = decays_at(a, scratch)
    g = a.g + t * a.g_token + head * a.g_head
    put_decays(a.dk, by_channel, g, k, decay, decayed, 0.0 if by_channel else one_exp(get(g, F32)))
    v, y = a.v + t * a.v_token + head * a.v_head, a.y + 4 * a.dv * (t * a.heads + head)
    beta = get(a.beta + t * a.beta_token + 4 * head, F32)
    change_rows(n, matrix, a.dk, decay, decayed, k, q, v + 4 * first, y + 4 * first, change, beta, a.scale)


@helper
def decays_at(a: Any, scratch: int) -> tuple[int, int, int]:
    """Where a thread has the decay of each element of k, k times it, and what a tile of rows changes by."""
    return scratch, scratch + 4 * a.dk, scratch + 8 * a.dk


@for_lanes(16)
def put_decays(
    i: int, block: Any, by_channel: int, g: int, k: int, decay: int, decayed: int, all: float
) -> None:
    """decay = e^g, or `all`; decayed = decay · k. Called with (n, by_channel, ...)."""
    factor = exp(load_lanes(g + 4 * i, F32, block)) if by_channel else splat(all, 16)
    store_lanes(decay + 4 * i, factor, F32, block)
    store_lanes(decayed + 4 * i, mul(factor, load_lanes(k + 4 * i, F32, block)), F32, block)


@by_tile
def change_rows(tile: int) -> Callable[..., None]:
    """Changes and reads rows of a matrix; called with (rows, matrix, dk, ...)."""

    @fold_lanes(16)
    def changed(i: int, block: Any, acc: Any, at: Any, decay: int, k: int, q: int, change: int) -> Any:
        kept = mul(load_rows(at, 4 * i, F32, block), load_lanes(decay + 4 * i, F32, block))
        s = fma(columns(change, 4, F32, tile, block), load_lanes(k + 4 * i, F32, block), kept)
        store_rows(at, 4 * i, s, tile, block)
        return fma(s, load_lanes(q + 4 * i, F32, block), acc)

    def change(
        first: int,
        matrix: int,
        dk: int,
        decay: int,
        decayed: int,
        k: int,
        q: int,
        v: int,
        y: int,
        changes: int,
        beta: float,
        scale: float,
    ) -> None:
        at = row_starts(tile, matrix + 4 * dk * first, 4 * dk, tile - 1)
        read = row_sums(dots(dk, zeros(tile, 16), at, decayed))
        ask_ahead(at[0], 4 * dk * tile)
        store(changes, mul(splat(beta, tile), sub(load(v + 4 * first, F32, tile), read)), F32)
        sums = row_sums(changed(dk, zeros(tile, 16), at, decay, k, q, changes))
        store(y + 4 * first, mul(sums, splat(scale, tile)), F32)

    return change


@ops.gated_delta_net.lowering("cpu", strided=("q", "k", "v", "g", "beta"))
def _(low: Low, node: Tensor) -> None:
    state, q, k, v, g, beta, where = map(low.operand, node.sources)
    keys, dk = q.type.shape[1:]
    by_channel = len(g.type.shape) == 3
    chunked = takes_chunks(low, node)
    part = rows_of_unit(node, low.n_threads) if chunked else PART
    room = channel_room_bytes if by_channel else room_bytes
    per_thread = room(dk, part) if chunked else 4 * (2 * dk + TILE + 16)
    strides = row_strides(v=v, q=q, k=k) | {"g_token": g.strides[0], "g_head": g.strides[1]}
    low.step(
        gated_delta_net_f32(int(by_channel), int(node.attrs["tiled"]), int(chunked)),
        q=q,
        k=k,
        v=v,
        g=g,
        beta=beta,
        state=state,
        y=low.result(node),
        scratch=low.scratch("decays", TensorType(dtypes.I8, (low.n_threads, per_thread))),
        keys=keys,
        dk=dk,
        dv=node.shape[2],
        **strides,
        beta_token=beta.strides[0],
        **where_args(where),
        part=part,
        per_thread=per_thread,
        scale=dk**-0.5,
        rows=rows_of(node.sources[-1].type),
    )
