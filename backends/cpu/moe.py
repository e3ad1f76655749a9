"""Expert routing kernels."""

from collections.abc import Callable

import numpy as np

from graphsched.backends.cpu.elementwise import map_row, row_sum
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.mathfn import SIGMOID as SIGMOID_OF_LANES
from graphsched.backends.cpu.language.simd import add, div, get, load_first, maximum, put, splat, store_first
from graphsched.backends.cpu.language.soft_max import scale_row, soft_max_row
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.kernel_args import arguments, rows, share
from graphsched.backends.cpu.program.lowering import Low
from graphsched.graph import ops
from graphsched.graph.ops.moe import GATINGS
from graphsched.graph.tensor import Tensor


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


@kernel("x -> y | n k")
def top_k_f32() -> Callable[..., None]:
    """Insertion into a list of the k best: most elements fail the first comparison."""

    def top_k(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, k = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            filled = 0
            for i in range(n):
                filled = insert(x + 4 * n * r, y + 4 * k * r, filled, k, i)

    return top_k


@ops.top_k.lowering("cpu", when=lambda node: len(node.shape) == 2)
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    low.step(top_k_f32(), x=x, y=low.result(node), n=x.type.shape[1], k=node.shape[1], over=node.type)


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


@helper
def choose_grouped(src: int, ids: int, n: int, k: int, n_group: int, n_used: int) -> None:
    """The k best of the n_used best groups."""
    size, chosen = n // n_group, 0  # a bit per group
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
            filled = insert(src, ids, filled, k, i)


@kernel("x -> y | n k n_group n_used")
def grouped_top_k_f32() -> Callable[..., None]:
    """ids[r] = the k best of the n_used best groups of x[r], rows of n scores."""

    def grouped(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, k, n_group, n_used = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            choose_grouped(x + 4 * n * r, y + 4 * k * r, n, k, n_group, n_used)

    return grouped


@ops.grouped_top_k.lowering("cpu", when=lambda node: len(node.shape) == 2 and node.attrs["n_group"] < 63)
def _(low: Low, node: Tensor) -> None:
    x, a = low.operand(node.sources[0]), node.attrs
    low.step(
        grouped_top_k_f32(),
        x=x,
        y=low.result(node),
        n=x.type.shape[1],
        k=node.shape[1],
        n_group=a["n_group"],
        n_used=a["n_group_used"],
        over=node.type,
    )


SOFTMAX, SIGMOID, SOFTMAX_WEIGHT, SIGMOID_WEIGHT = range(len(GATINGS))


@kernel("x bias? -> probs ids weights ranks? | n k x_row n_group n_used | least by")
def topk_moe_f32(gating: int, grouped: int, normalised: int, scaled: int) -> Callable[..., None]:
    """Probabilities, the k best of them, and their weights; normalised, over their sum; scaled."""

    def choose(step: int, run: int, ith: int, nth: int) -> None:
        x, bias, probs, ids, weights, ranks, n, k, x_row, n_group, n_used, least, by = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            p, chosen, out = probs + 4 * n * r, ids + 4 * k * r, weights + 4 * k * r
            # The gatings of weights rank logits here, and make weights of the chosen ones below.
            if gating == SOFTMAX:
                soft_max_row(x + x_row * r, p, n)
            elif gating == SIGMOID:
                map_row(SIGMOID_OF_LANES, x + x_row * r, p, n)
            else:
                p = x + x_row * r
            rank = p
            if bias:
                rank = ranks + 4 * n * r
                add_row(p, bias, rank, n)
            if grouped:
                choose_grouped(rank, chosen, n, k, n_group, n_used)
            else:
                filled = 0
                for i in range(n):
                    filled = insert(rank, chosen, filled, k, i)
            for u in range(k):
                put(out + 4 * u, get(p + 4 * get(chosen + 4 * u, I32), F32), F32)
            if gating == SOFTMAX_WEIGHT:
                soft_max_row(out, out, k)
            elif gating == SIGMOID_WEIGHT:
                map_row(SIGMOID_OF_LANES, out, out, k)
            # All lanes divide by one sum, as SUM_ROWS and DIV apart do: the same bits.
            if normalised:
                over = maximum(splat(row_sum(out, k), 16), splat(least, 16))
                for u in range(0, k, 16):
                    left = min(k - u, 16)
                    store_first(out + 4 * u, div(load_first(out + 4 * u, F32, 16, left), over), F32, left)
            if scaled:
                scale_row(k, out, by)

    return choose


@helper
def add_row(a: int, b: int, y: int, n: int) -> None:
    """y[i] = a[i] + b[i], a row of n floats."""
    for i in range(0, n, 16):
        left = min(n - i, 16)
        sums = add(load_first(a + 4 * i, F32, 16, left), load_first(b + 4 * i, F32, 16, left))
        store_first(y + 4 * i, sums, F32, left)


def _chooses(node: Tensor) -> bool:
    return len(node.sources[0].shape) == 2 and node.attrs["n_group"] < 63


@ops.topk_moe.lowering("cpu", when=_chooses, strided=("logits",))
def _(low: Low, node: Tensor) -> None:
    (x, *bias), a = map(low.operand, node.sources), node.attrs
    ids, weights = low.results(node)
    probs, n_group = low.scratch("probabilities", x.type), a["n_group"]
    scaled, normalised = int(a["by"] != 1.0), int(a["least"] is not None)
    low.step(
        topk_moe_f32(GATINGS.index(a["gating"]), int(n_group > 1), normalised, scaled),
        x=x,
        bias=bias[0] if bias else None,
        probs=probs,
        ids=ids,
        weights=weights,
        ranks=low.scratch("ranks", x.type) if bias else None,
        n=x.type.shape[1],
        k=a["k"],
        x_row=x.strides[0],
        n_group=n_group,
        n_used=a["n_group_used"],
        least=a["least"] or 0.0,
        by=a["by"],
        over=ids.type,
    )
