"""Attention as separate nodes (-fa 0): scores, their softmax, and sums of values, each over the cells in use.

Scores are [tokens, heads, cells] at the capacity of the cache; what is beyond the cells in use is never touched.
Free cells hold numbers of earlier tokens: they get scores, and no weight.
"""

from collections.abc import Callable

from graphsched.backends.cpu.attention.kv import add_scaled, dot_kv
from graphsched.backends.cpu.formats.writers import CACHE_TYPES
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.lanes import clear
from graphsched.backends.cpu.language.simd import get, put, word
from graphsched.backends.cpu.language.vector import F32
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
            clear(dim, out)
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


@ops.mul_mat.lowering("cpu", when=_by_cell, strided=("w", "x"), w=CACHE_TYPES)
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


@ops.mul_mat.lowering("cpu", when=lambda node: _axes(node) == BY_ELEMENT, permuted=("w",), w=CACHE_TYPES)
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
