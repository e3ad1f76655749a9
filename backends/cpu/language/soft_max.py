"""Softmax: of whole rows, and of scores that come a chunk at a time, whose sums are kept against the highest so far.

Against `top`, a score s weighs e^(s - top). NEVER is the score of what is not seen: it weighs nothing.
"""

from typing import Any

import numpy as np

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.lanes import (
    first_of,
    fold_lanes,
    for_lanes,
    load_lanes,
    load_or,
    store_lanes,
)
from graphsched.backends.cpu.language.mathfn import exp, tanh
from graphsched.backends.cpu.language.simd import (
    add,
    div,
    get,
    max_lanes,
    maximum,
    mul,
    put,
    splat,
    store,
    sub,
    sum_lanes,
    where_less,
)
from graphsched.backends.cpu.language.vector import F32

NEVER: Any = np.float32(-np.inf)
ZERO: Any = np.float32(0.0)
ONE: Any = np.float32(1.0)


@for_lanes(16)
def scale_row(i: int, block: Any, y: int, factor: float) -> None:
    """y[i] *= factor; called with (n, y, factor)."""
    store_lanes(y + 4 * i, mul(load_lanes(y + 4 * i, F32, block), splat(factor, 16)), F32, block)


@for_lanes(16)
def cap_row(i: int, block: Any, scores: int, cap: float) -> None:
    """Scores become cap · tanh(s / cap), but for NEVER; called with (n, scores, cap)."""
    s = load_lanes(scores + 4 * i, F32, block)
    capped = mul(splat(cap, 16), tanh(div(s, splat(cap, 16))))
    store_lanes(scores + 4 * i, where_less(splat(NEVER, 16), s, capped, s), F32, block)


@fold_lanes(16)
def highest_lanes(i: int, block: Any, peak: Any, scores: int) -> Any:
    """The higher of the lanes of `peak` and of the scores; called with (n, peak, scores)."""
    return maximum(load_or(scores + 4 * i, block, NEVER), peak)


@helper
def highest(scores: int, n: int) -> float:
    """The highest of n scores; NEVER if there are none."""
    return max_lanes(highest_lanes(n, splat(NEVER, 16), scores))


@fold_lanes(16)
def weigh_lanes(i: int, block: Any, total: Any, scores: int, weights: int, top: float) -> Any:
    """weights = e^(scores - top); adds them to the lanes of `total`. Called with (n, total, scores, ...)."""
    p = exp(sub(load_or(scores + 4 * i, block, NEVER), splat(top, 16)))
    store_lanes(weights + 4 * i, p, F32, block)
    return add(total, p)


@helper
def one_exp(x: float) -> float:
    """e^x as the lanes have it."""
    return max_lanes(exp(splat(x, 16)))


@helper
def rise(top: float, total: float, peak: float) -> tuple[Any, Any, Any]:
    """(new top, total against it, factor of other sums against the old top), once a score of `peak` is there."""
    if peak > top:
        factor = one_exp(top - peak)
        return peak, total * factor, factor
    return top, total, ONE


@helper
def weigh_chunk(
    scores: int, n: int, cap: float, top: float, total: float, sums: int, width: int
) -> tuple[float, float]:
    """Scores, capped if cap > 0, become weights in place: (new top, new total). Up to 15 behind them are overwritten.

    The `width` sums so far are scaled to the new top.
    """
    n = padded(scores, n)
    if cap > 0.0:
        cap_row(n, scores, cap)
    new, total, factor = rise(top, total, highest(scores, n))
    if new > top:
        scale_row(width, sums, factor)
    against = new if new > NEVER else np.float32(0.0)  # nothing is seen: all weights are 0
    return new, total + sum_lanes(weigh_lanes(n, splat(0.0, 16), scores, scores, against))


@helper
def padded(scores: int, n: int) -> int:
    """Fills the last vector of n scores up with NEVER; returns how many there are then."""
    full = n // 16 * 16
    if full < n:
        store(scores + 4 * full, load_or(scores + 4 * full, first_of(16, n - full), NEVER), F32)
    return (n + 15) // 16 * 16


@helper
def normalise_row(scores: int, weights: int, n: int, top: float, rest: float) -> None:
    """weights = e^(scores - top) over their sum and `rest`. What exceeds full vectors is added one by one."""
    full = n // 16 * 16
    total = sum_lanes(weigh_lanes(full, splat(0.0, 16), scores, weights, top))
    for i in range(full, n):
        p = one_exp(get(scores + 4 * i, F32) - top)
        put(weights + 4 * i, p, F32)
        rest += p
    scale_row(n, weights, np.float32(1.0) / (total + rest))


@helper
def soft_max_row(x: int, y: int, n: int) -> None:
    """y = softmax(x), rows of n."""
    normalise_row(x, y, n, highest(x, n), np.float32(0.0))
