"""Attention as separate nodes (-fa 0): scores, their softmax, and sums of values, each over the cells in use.

Scores are [tokens, heads, cells] at the capacity of the cache; what is beyond the cells in use is never touched.
Free cells hold numbers of earlier tokens: they get scores, and no weight.
"""

from collections.abc import Callable

import numpy as np

from graphsched.backends.cpu.attention.common import last_unseen
from graphsched.backends.cpu.attention.flash import KV_TYPES, add_scaled, dot_kv
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.mathfn import NEVER, exp, one_exp, scale_row, tanh
from graphsched.backends.cpu.language.simd import (
    add,
    get,
    load,
    max_lanes,
    put,
    splat,
    store,
    sub,
    sum_lanes,
    word,
)
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.kernel_args import arguments, rows, share
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.opdef import Op
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.types import dtypes

BY_CELL, BY_ELEMENT = (1, 0, 2), (1, 2, 0)  # axes of a cache's view: rows are cells, or elements over cells


@kernel(
    "k x -> y | dim group heads x_token x_head k_head k_cell capacity n_word n_times",
)
def head_scores(kind: int) -> Callable[..., None]:
    """y[t, h, c] = k[h / group, c] · x[t, h] for the cells in use."""

    def scores(step: int, run: int, ith: int, nth: int) -> None:
        k, x, y, dim, group, heads, x_token, x_head, k_head, k_cell, capacity, n_word, n_times = arguments(
            step
        )
        n = word(run, n_word) * n_times
        first, last = share(rows(step, run) * heads, ith, nth)
        for unit in range(first, last):
            if word(run, ABORT):
                break
            t, h = unit // heads, unit % heads
            query, keys = x + t * x_token + h * x_head, k + h // group * k_head
            for c in range(n):
                put(y + 4 * (unit * capacity + c), dot_kv(kind, keys + c * k_cell, query, dim), F32)

    return scores


@kernel("v p -> y | dim group heads v_head v_cell capacity n_word n_times")
def head_sums(kind: int) -> Callable[..., None]:
    """y[t, h] = Σ_c p[t, h, c] · v[h / group, :, c] over the cells in use."""

    def sums(step: int, run: int, ith: int, nth: int) -> None:
        v, p, y, dim, group, heads, v_head, v_cell, capacity, n_word, n_times = arguments(step)
        n = word(run, n_word) * n_times
        first, last = share(rows(step, run) * heads, ith, nth)
        for unit in range(first, last):
            if word(run, ABORT):
                break
            out, values = y + 4 * unit * dim, v + unit % heads // group * v_head
            for i in range(dim):
                put(out + 4 * i, 0.0, F32)
            for c in range(n):
                weight = get(p + 4 * (unit * capacity + c), F32)
                if weight > 0.0:
                    add_scaled(kind, values + c * v_cell, weight, out, dim)

    return sums


def _length(dim: int) -> tuple[int, int]:
    """(word of the run block, factor) whose product is the actual length of a dimension."""
    return rows_of(TensorType(dtypes.F32, (dim,)), inner=0)


def _axes(node: Tensor) -> tuple[int, ...] | None:
    """The order of dimensions in which a product reads its matrices, if they are a permuted view."""
    w = node.sources[0].opdef
    return node.sources[0].attrs["axes"] if w is not None and w.op is Op.PERMUTE else None


def _by_cell(node: Tensor) -> bool:
    w, x = node.sources
    if len(w.shape) != 3 or w.shape[-1] % w.dtype.block:
        return False
    return _axes(node) == BY_CELL or (_axes(node) is None and w.shape[0] != x.shape[1])


@ops.mul_mat.lowering("cpu", when=_by_cell, strided=("w", "x"), w=KV_TYPES)
def _(low: Low, node: Tensor) -> None:
    k, x = map(low.operand, node.sources)
    word, times = _length(node.shape[2])
    low.step(
        head_scores(k.type.dtype.id),
        k=k,
        x=x,
        y=low.result(node),
        dim=k.type.shape[2],
        **row_strides(x=x),
        group=x.type.shape[1] // k.type.shape[0],
        k_head=k.strides[0],
        k_cell=k.strides[1],
        capacity=node.shape[2],
        n_word=word,
        n_times=times,
        rows=rows_of(node.type, inner=2),
    )


@ops.mul_mat.lowering("cpu", when=lambda node: _axes(node) == BY_ELEMENT, permuted=("w",), w=KV_TYPES)
def _(low: Low, node: Tensor) -> None:
    v, p = map(low.operand, node.sources)
    heads, (word, times) = node.shape[1], _length(p.type.shape[2])
    low.step(
        head_sums(v.type.dtype.id),
        v=v,
        p=p,
        y=low.result(node),
        dim=node.shape[2],
        heads=heads,
        group=heads // v.type.shape[0],
        v_head=v.strides[0],
        v_cell=v.strides[2],
        capacity=p.type.shape[2],
        n_word=word,
        n_times=times,
        rows=rows_of(node.type, inner=2),
    )


@kernel("x where cells sinks? -> y | heads window chunk capacity n_word n_times | scale cap")
def masked_soft_max() -> Callable[..., None]:
    """softmax over the cells that a token sees, of scaled and capped scores; a sink takes its share."""

    def soft_max(step: int, run: int, ith: int, nth: int) -> None:
        x, where, cells, sinks, y, heads, window, chunk, capacity, n_word, n_times, scale, cap = arguments(
            step
        )
        n = word(run, n_word) * n_times
        first, last = share(rows(step, run) * heads, ith, nth)
        full = n // 16 * 16
        for unit in range(first, last):
            if word(run, ABORT):
                break
            t, h = unit // heads, unit % heads
            seq, pos = get(where + 8 * t, I32), get(where + 8 * t + 4, I32)
            oldest = last_unseen(pos, window, chunk)
            src, dst = x + 4 * unit * capacity, y + 4 * unit * capacity
            top = get(sinks + 4 * h, F32) if sinks else NEVER
            for j in range(n):
                at, s = get(cells + 8 * j + 4, I32), NEVER
                if get(cells + 8 * j, I32) == seq and at <= pos and at > oldest:
                    s = get(src + 4 * j, F32) * scale
                    if cap > 0.0:
                        s = cap * max_lanes(tanh(splat(s / cap, 16)))
                    if s > top:
                        top = s
                put(dst + 4 * j, s, F32)
            if top == NEVER:  # nothing is seen
                for j in range(n):
                    put(dst + 4 * j, 0.0, F32)
                continue
            lanes, total = splat(0.0, 16), np.float32(0.0)
            if sinks:
                total = one_exp(get(sinks + 4 * h, F32) - top)
            for i in range(0, full, 16):
                p = exp(sub(load(dst + 4 * i, F32, 16), splat(top, 16)))
                store(dst + 4 * i, p, F32)
                lanes = add(lanes, p)
            for i in range(full, n):
                one = one_exp(get(dst + 4 * i, F32) - top)
                put(dst + 4 * i, one, F32)
                total += one
            scale_row(dst, np.float32(1.0) / (sum_lanes(lanes) + total), n)

    return soft_max


@ops.soft_max.lowering("cpu", when=lambda node: len(node.sources) > 1, x=(dtypes.F32,))
@ops.soft_cap_max.lowering("cpu", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, where, cells, *sinks = map(low.operand, node.sources)
    a, (word, times) = node.attrs, _length(node.shape[2])
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
        n_word=word,
        n_times=times,
        scale=a["scale"],
        cap=a.get("cap", 0.0),
        rows=rows_of(node.type, inner=2),
    )
