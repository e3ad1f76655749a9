"""The selective scan: each row of a head's matrix is decayed, grows by x times b, and is read with c.

Units, bits and chunks (`scan_chunk`) are those of `delta`.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import clear, fold_lanes, for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.mathfn import exp, softplus
from graphsched.backends.cpu.language.prefetch import ask_ahead
from graphsched.backends.cpu.language.simd import fma, get, load, max_lanes, mul, splat, store, word
from graphsched.backends.cpu.language.tile import columns, load_rows, row_starts, row_sums, store_rows, zeros
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, rows
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.backends.cpu.recurrent.common import (
    PART,
    TILE,
    by_tile,
    is_first,
    matrix_at,
    run_end,
    where_args,
)
from graphsched.backends.cpu.recurrent.panels import CHUNK, room_bytes, rows_of_unit, takes_chunks
from graphsched.backends.cpu.recurrent.scan_chunk import scan_chunks
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes

# Strides and per_thread (scratch of each thread) in bytes; width, n_state: rows and columns of a head's matrix;
# part: its rows that are a unit.
SCAN = (
    "x dt a b c where -> state y scratch"
    " | heads groups width n_state x_token x_head dt_token a_head b_token b_head c_token c_head where_row part"
    " per_thread"
)


@kernel(SCAN)
def ssm_scan_f32(by_channel: int, chunked: int) -> Callable[..., None]:
    """y[t, h] = S·c with S = e^(δ a) S + δ x bᵀ, δ = softplus(dt); a per element of b if by_channel."""

    def scan(step: int, run: int, ith: int, nth: int) -> None:
        p = arguments(step)
        n, parts, own = rows(step, run), (p.width + p.part - 1) // p.part, p.scratch + ith * p.per_thread
        unit = next_unit(step)
        while unit < p.heads * parts and not word(run, ABORT):
            head, first = unit // parts, unit % parts * p.part
            group, size, t = head // (p.heads // p.groups), min(p.part, p.width - first), 0
            while t < n:
                end = run_end(p.where, p.where_row, t, n)
                if chunked and end - t >= CHUNK:
                    matrix = matrix_at(p, p.width, p.n_state, t, head, first)
                    t = scan_chunks(p, matrix, p.n_state, t, end, head, group, first, size, own)
                for u in range(t, end):
                    one_token(by_channel, p, u, head, group, first, size, own)
                t = end
            unit = next_unit(step)

    return scan


@helper
def one_token(
    by_channel: int, p: Any, t: int, head: int, group: int, first: int, n: int, scratch: int
) -> None:
    """Token t changes and reads n rows of a head's matrix, from row `first`."""
    matrix = matrix_at(p, p.width, p.n_state, t, head, first)
    if is_first(p.where, p.where_row, t):
        clear(n * p.n_state, matrix)
    delta = max_lanes(softplus(splat(get(p.dt + t * p.dt_token + 4 * head, F32), 16)))
    a = p.a + head * p.a_head
    put_decays(p.n_state, by_channel, a, scratch, delta, max_lanes(exp(splat(delta * get(a, F32), 16))))
    b, c = p.b + t * p.b_token + group * p.b_head, p.c + t * p.c_token + group * p.c_head
    x, y = p.x + t * p.x_token + head * p.x_head, p.y + 4 * p.width * (t * p.heads + head)
    change = scratch + 4 * p.n_state
    grow_rows(n, matrix, p.n_state, scratch, b, c, x + 4 * first, y + 4 * first, change, delta)


@for_lanes(16)
def put_decays(i: int, block: Any, by_channel: int, a: int, decay: int, delta: float, all: float) -> None:
    """decay = e^(δ a), or `all`; called with (n, by_channel, ...)."""
    factor = splat(all, 16)
    if by_channel:
        factor = exp(mul(splat(delta, 16), load_lanes(a + 4 * i, F32, block)))
    store_lanes(decay + 4 * i, factor, F32, block)


@by_tile
def grow_rows(tile: int) -> Callable[..., None]:
    """Changes and reads rows of a matrix; called with (rows, matrix, n_state, ...)."""

    @fold_lanes(16)
    def grown(i: int, block: Any, acc: Any, at: Any, decay: int, b: int, c: int, change: int) -> Any:
        kept = mul(load_rows(at, 4 * i, F32, block), load_lanes(decay + 4 * i, F32, block))
        s = fma(columns(change, 4, F32, tile, block), load_lanes(b + 4 * i, F32, block), kept)
        store_rows(at, 4 * i, s, tile, block)
        return fma(s, load_lanes(c + 4 * i, F32, block), acc)

    def grow(
        first: int,
        matrix: int,
        n_state: int,
        decay: int,
        b: int,
        c: int,
        x: int,
        y: int,
        change: int,
        delta: float,
    ) -> None:
        at = row_starts(tile, matrix + 4 * n_state * first, 4 * n_state, tile - 1)
        ask_ahead(at[0], 4 * n_state * tile)
        store(change, mul(splat(delta, tile), load(x + 4 * first, F32, tile)), F32)
        store(y + 4 * first, row_sums(grown(n_state, zeros(tile, 16), at, decay, b, c, change)), F32)

    return grow


@ops.ssm_scan.lowering("cpu", strided=("x", "dt", "b", "c"))
def _(low: Low, node: Tensor) -> None:
    state, x, dt, a, b, c, where = map(low.operand, node.sources)
    width, n_state = state.type.shape[2:]
    chunked = a.type.shape[1] == 1 and takes_chunks(low, node)
    part = rows_of_unit(node, low.n_threads) if chunked else PART
    per_thread = room_bytes(n_state, part) if chunked else 4 * (n_state + TILE + 16)
    low.step(
        ssm_scan_f32(int(a.type.shape[1] > 1), int(chunked)),
        x=x,
        dt=dt,
        a=a,
        b=b,
        c=c,
        state=state,
        y=low.result(node),
        scratch=low.scratch("decays", TensorType(dtypes.I8, (low.n_threads, per_thread))),
        groups=b.type.shape[1],
        width=width,
        n_state=n_state,
        **row_strides(x=x, b=b, c=c),
        dt_token=dt.strides[0],
        a_head=a.strides[0],
        **where_args(where),
        part=part,
        per_thread=per_thread,
        rows=rows_of(node.sources[-1].type),
    )
