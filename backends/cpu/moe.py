"""Expert routing kernels."""

from collections.abc import Callable

import numpy as np

from graphsched import ops
from graphsched.backends.cpu.attention import soft_max_row
from graphsched.backends.cpu.elementwise import row_sum
from graphsched.backends.cpu.gemm import lesser
from graphsched.backends.cpu.jit import helper, kernel
from graphsched.backends.cpu.lowering import Low
from graphsched.backends.cpu.movement import contiguous
from graphsched.backends.cpu.simd import div, get, load_first, maximum, put, splat, store_first
from graphsched.backends.cpu.steps import arg, real_arg, rows, share
from graphsched.backends.cpu.vector import F32, I32
from graphsched.operand import Out
from graphsched.tensor import Tensor


@helper
def insert(scores: int, ids: int, filled: int, k: int, i: int) -> int:
    """Puts i into the list of the k best, behind its equals; `filled` and the result count the list."""
    value = get(scores + 4 * i, F32)
    at = filled
    if filled == k:
        if not value > get(scores + 4 * get(ids + 4 * (k - 1), I32), F32):
            return filled
        at = k - 1
    while at > 0 and value > get(scores + 4 * get(ids + 4 * (at - 1), I32), F32):
        put(ids + 4 * at, get(ids + 4 * (at - 1), I32), I32)
        at -= 1
    put(ids + 4 * at, i, I32)
    return filled + 1 if filled < k else filled


@kernel
def top_k_f32() -> Callable[..., None]:
    """Insertion into a list of the k best: most elements fail the first comparison."""

    def top_k(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, k = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            filled = 0
            for i in range(n):
                filled = insert(x + 4 * n * r, y + 4 * k * r, filled, k, i)

    return top_k


@ops.top_k.lowering("cpu", when=lambda node: len(node.shape) == 2)
def _(low: Low, node: Tensor) -> None:
    x = contiguous(low, low.operand(node.sources[0]))
    low.step(top_k_f32(), x, Out(low.result(node)), x.type.shape[1], node.shape[1], over=node.type)


@helper
def group_score(scores: int, n: int) -> float:
    """The sum of the two largest of n scores."""
    best, second = get(scores, F32), get(scores, F32)
    if n == 1:
        return best
    second = get(scores + 4, F32)
    if second > best:
        best, second = second, best
    for i in range(2, n):
        value = get(scores + 4 * i, F32)
        if value > best:
            best, second = value, best
        elif value > second:
            second = value
    return best + second


@kernel
def grouped_top_k_f32() -> Callable[..., None]:
    def grouped(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, k = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        n_group, n_used = arg(step, 4), arg(step, 5)
        size = n // n_group
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            src, chosen = x + 4 * n * r, 0  # a bit per group
            for _ in range(n_used):
                at, best = -1, np.float32(0.0)
                for g in range(n_group):
                    score = group_score(src + 4 * g * size, size)
                    if not (chosen >> g) & 1 and (at < 0 or score > best):
                        at, best = g, score
                chosen |= 1 << at
            filled = 0
            for i in range(n):
                if (chosen >> (i // size)) & 1:
                    filled = insert(src, y + 4 * k * r, filled, k, i)

    return grouped


@ops.grouped_top_k.lowering("cpu", when=lambda node: len(node.shape) == 2 and node.attrs["n_group"] < 63)
def _(low: Low, node: Tensor) -> None:
    x, a = contiguous(low, low.operand(node.sources[0])), node.attrs
    args = (x, Out(low.result(node)), x.type.shape[1], node.shape[1], a["n_group"], a["n_group_used"])
    low.step(grouped_top_k_f32(), *args, over=node.type)


@kernel
def topk_moe_f32(normalised: int) -> Callable[..., None]:
    """Softmax, the k best of it, and their probabilities; normalised, over their sum."""

    def choose(step: int, run: int, ith: int, nth: int) -> None:
        x, probs, ids, weights = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        n, k, row, least = arg(step, 4), arg(step, 5), arg(step, 6), real_arg(step, 7)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            p, chosen, out = probs + 4 * n * r, ids + 4 * k * r, weights + 4 * k * r
            soft_max_row(x + row * r, p, n)
            filled = 0
            for i in range(n):
                filled = insert(p, chosen, filled, k, i)
            for u in range(k):
                put(out + 4 * u, get(p + 4 * get(chosen + 4 * u, I32), F32), F32)
            if normalised:
                over = maximum(splat(row_sum(out, k), 16), splat(least, 16))
                for u in range(0, k, 16):
                    left = lesser(k - u, 16)
                    store_first(out + 4 * u, div(load_first(out + 4 * u, F32, 16, left), over), F32, left)

    return choose


@ops.topk_moe.lowering("cpu", when=lambda node: len(node.sources[0].shape) == 2)
def _(low: Low, node: Tensor) -> None:
    x, least = low.operand(node.sources[0]), node.attrs["least"]
    ids, weights = low.results(node)
    probs, kernel = low.scratch("probabilities", x.type), topk_moe_f32(int(least is not None))
    args = (x, Out(probs), Out(ids), Out(weights), x.type.shape[1], node.attrs["k"], x.strides[0])
    low.step(kernel, *args, float(least or 0.0), over=ids.type)
