"""Softmax ops: of rows, and of attention's scores over the cells that a token sees (-fa 0)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.attention.common import WHERE, query_at, sees, slope
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.simd import get, put, word
from graphsched.backends.cpu.language.soft_max import (
    NEVER,
    cap_row,
    highest,
    normalise_row,
    one_exp,
    soft_max_row,
)
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.kernel_args import arguments, row_at, rows, share
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes


@kernel("x -> y | n heads x_token x_head")
def soft_max_f32() -> Callable[..., None]:
    """y = softmax(x) over the last dimension."""

    def soft_max(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            soft_max_row(row_at(x, r, heads, x_token, x_head), y + r * n * 4, n)

    return soft_max


@kernel("x where cells sinks? -> y | heads window chunk capacity n_word n_times | scale cap max_bias")
def masked_soft_max() -> Callable[..., None]:
    """softmax over the cells that a token sees, of scaled and capped scores; a sink takes its share."""

    def soft_max(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        n = word(run, a.n_word) * a.n_times
        first, last = share(rows(step, run) * a.heads, ith, nth)
        for unit in range(first, last):
            if word(run, ABORT):
                break
            t, at = unit // a.heads, 4 * unit * a.capacity
            sink = get(a.sinks + 4 * (unit % a.heads), F32) if a.sinks else NEVER
            query = query_at(a.where + WHERE * t, a.window, a.chunk)
            put_seen(a.x + at, a.y + at, n, query, a.cells, a.scale)
            if a.max_bias > 0.0:
                lean_cells(a.y + at, n, query, a.cells, slope(a.max_bias, unit % a.heads, a.heads))
            if a.cap > 0.0:
                cap_row(n, a.y + at, a.cap)
            top = highest(a.y + at, n)
            if sink > top:
                top = sink
            if top > NEVER:
                normalise_row(a.y + at, a.y + at, n, top, one_exp(sink - top))
            else:
                for j in range(n):
                    put(a.y + at + 4 * j, 0.0, F32)

    return soft_max


@helper
def put_seen(x: int, y: int, n: int, query: Any, cells: int, scale: float) -> None:
    """Scores of the cells that a query sees, scaled; NEVER for the others."""
    for j in range(n):
        is_seen = get(cells + 8 * j, I32) == query[0] and sees(query, get(cells + 8 * j + 4, I32))
        put(y + 4 * j, get(x + 4 * j, F32) * scale if is_seen else NEVER, F32)


@helper
def lean_cells(y: int, n: int, query: Any, cells: int, slope: float) -> None:
    """Adds ALiBi's biases to a query's scores of cells."""
    for j in range(n):
        s = get(y + 4 * j, F32) + np.float32(slope * (get(cells + 8 * j + 4, I32) - query[1]))
        put(y + 4 * j, s, F32)


@ops.soft_max.lowering(
    "cpu", when=lambda node: len(node.sources) == 1 and node.attrs["scale"] == 1.0, strided=("x",)
)
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    y = low.result(node, in_place_of=node.sources)
    low.step(soft_max_f32(), x=x, y=y, n=node.shape[-1], **row_strides(x=x), over=node.type)


@ops.soft_max.lowering("cpu", when=lambda node: len(node.sources) > 1, x=(dtypes.F32,))
@ops.soft_cap_max.lowering("cpu", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, where, cells, *sinks = map(low.operand, node.sources)
    a = node.attrs
    word_of, times = rows_of(TensorType(dtypes.F32, (node.shape[2],)), inner=0)
    y = low.result(node, in_place_of=node.sources[:1])
    low.step(
        masked_soft_max(),
        x=x,
        where=where,
        cells=cells,
        sinks=sinks[0] if sinks else None,
        y=y,
        heads=node.shape[1],
        window=a["window"],
        chunk=a["chunk"],
        capacity=node.shape[2],
        n_word=word_of,
        n_times=times,
        scale=a["scale"],
        cap=a.get("cap", 0.0),
        max_bias=a.get("max_bias", 0.0),
        rows=rows_of(node.type, inner=2),
    )
