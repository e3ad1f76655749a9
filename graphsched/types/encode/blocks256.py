"""Blocks of 256 weights in sub-blocks whose scales are integers times one or two F16 scales of the block.

Sub-blocks are lanes: arrays are [n, S, N], n weights of S sub-blocks in N blocks.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from graphsched.types.encode import search
from graphsched.types.encode.search import Floats, Grid, half, reciprocal

_NEAR: Final = (-1, 0, 1)
_ROUNDS: Final = 1  # a second one takes 0.2 % off the error and costs a third more time


@overload
def lanes(blocks: Floats, n: int) -> Floats: ...
@overload
def lanes(blocks: Floats | None, n: int) -> Floats | None: ...
def lanes(blocks: Floats | None, n: int) -> Floats | None:
    """[N, 256] -> [n, S, N]; None stays None."""
    return (
        None
        if blocks is None
        else np.ascontiguousarray(blocks.reshape(len(blocks), -1, n).transpose(2, 1, 0))
    )


def in_order(codes: Floats) -> NDArray[np.uint8]:
    """Codes from 0 up [n, S, N] -> [N, 256]"""
    return np.ascontiguousarray(codes.astype(np.uint8).transpose(2, 1, 0)).reshape(codes.shape[2], -1)


def scaled(
    x: Floats, w: Floats | None, grid: Grid, limits: tuple[int, int], tries: Sequence[float]
) -> tuple[Floats, Floats, Floats]:
    """x ≈ d · s · value: d [N] as F16 keeps it, integers s [S, N] within the limits, values [n, S, N]."""
    scale = search.scaled(_flat(x), _flat(w), grid, tries).reshape(x.shape[1:])
    peak = np.take_along_axis(scale, np.abs(scale).argmax(axis=0)[None], axis=0)[0]
    d = half(peak / np.float32(limits[0]))
    s = np.clip(np.rint(scale * reciprocal(d)), *limits)

    def values(s: Floats) -> Floats:
        return grid.nearest(x * reciprocal(d * s))

    def left(s: Floats) -> Floats:
        return search.error(x, w, values(s) * (d * s))

    for _ in range(_ROUNDS):
        (s,) = _nearby((s,), (limits,), left)
        y = values(s) * s
        wy = y if w is None else w * y
        refit = half(_total(wy * x) * reciprocal(_total(wy * y)))
        d = np.where(_total(search.error(x, w, y * refit)) < _total(search.error(x, w, y * d)), refit, d)
    return d, s, values(s)


def affine(
    x: Floats, w: Floats | None, high: int, limit: int, tries: Sequence[float]
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats], Floats]:
    """x ≈ d · s · code - e · m: d, e [N] as F16 keeps them, integers s, m [S, N] up to limit, codes up to high."""
    flat = search.affine(_flat(x), _flat(w), high, tries)
    scale, offset = (a.reshape(x.shape[1:]) for a in flat)
    d, e = (half(a.max(axis=0) / np.float32(limit)) for a in (scale, offset))
    s, m = (np.clip(np.rint(a * reciprocal(b)), 0, limit) for a, b in ((scale, d), (offset, e)))
    nearest = search.integers(0, high).nearest

    def codes(s: Floats, m: Floats) -> Floats:
        q = x + e * m
        return nearest(np.multiply(q, reciprocal(d * s), out=q))

    def left(s: Floats, m: Floats) -> Floats:
        y = codes(s, m)
        y *= d * s
        return search.error(x, w, np.subtract(y, e * m, out=y))

    # Alternates: the best integers for d and e, then the best d and e for these integers (least squares).
    for _ in range(_ROUNDS):
        s, m = _nearby((s, m), ((0, limit), (0, limit)), left)
        y = codes(s, m) * s
        refit = _both(x, w, y, m)
        old = _total(search.error(x, w, y * d - e * m))
        new = _total(search.error(x, w, y * refit[0] - refit[1] * m))
        # F16 rounding can make a refit worse: each block keeps the better of both.
        d, e = np.where(new < old, refit[0], d), np.where(new < old, refit[1], e)
    return (d, e), (s, m), codes(s, m)


def _both(x: Floats, w: Floats | None, y: Floats, m: Floats) -> tuple[Floats, Floats]:
    """d and e [N] by least squares of x ≈ d · y - e · m, as F16 keeps them."""
    one = np.ones_like(x) if w is None else w
    wy = y if w is None else w * y
    yy, mm, ym = _total(wy * y), _total(one * (m * m)), _total(wy * m)
    xy, xm = _total(wy * x), _total(one * (x * m))
    per_det = reciprocal(yy * mm - ym * ym)
    return half((xy * mm - xm * ym) * per_det), half((xy * ym - xm * yy) * per_det)


def _nearby(
    start: tuple[Floats, ...], limits: Sequence[tuple[int, int]], error: Callable[..., Floats]
) -> tuple[Floats, ...]:
    """The integers [S, N], each at most one from its start, that leave the least error."""
    best, found = error(*start), [a.copy() for a in start]
    for steps in product(_NEAR, repeat=len(start)):
        if any(steps):
            tried = [np.clip(a + i, *ends) for a, i, ends in zip(start, steps, limits, strict=True)]
            left = error(*tried)
            for old, new in zip(found, tried, strict=True):
                np.copyto(old, new, where=left < best)
            np.minimum(best, left, out=best)
    return tuple(found)


@overload
def _flat(a: Floats) -> Floats: ...
@overload
def _flat(a: Floats | None) -> Floats | None: ...
def _flat(a: Floats | None) -> Floats | None:
    return None if a is None else a.reshape(len(a), -1)


def _total(a: Floats) -> Floats:
    """The sum over all but the blocks."""
    return a.sum(axis=tuple(range(a.ndim - 1)))
