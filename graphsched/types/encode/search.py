"""Least-squares searches for the scales of blocks of weights; blocks are lanes, so that numpy works on all at once.

Weights x and their importance w are [n, B]: n weights of each of B blocks. What llama.cpp searches one block after
the other is searched here for all blocks together, then refined: its scales are rounded once, here they and their
neighbours are tried with the codes that each of them gives.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_TINY: Final = np.float32(1e-30)


@dataclass(frozen=True)
class Grid:
    """The values that codes stand for: `nearest` rounds to one in place, `ends` are the outermost."""

    nearest: Callable[[Floats], Floats]
    ends: tuple[float, float]


def integers(low: int, high: int) -> Grid:
    """The grid of all integers from low to high."""

    def nearest(t: Floats) -> Floats:
        np.rint(t, out=t)
        return np.clip(t, low, high, out=t)

    return Grid(nearest, (low, high))


def codebook(values: Floats) -> Grid:
    """A grid of ascending values below 128; quarters are fine enough to find the nearest by a table."""
    quarters = np.arange(-512, 513, dtype=np.float32) / 4
    table = values[np.abs(quarters[:, None] - values).argmin(axis=1)]

    def nearest(t: Floats) -> Floats:
        t *= 4
        t += 512.5
        return table.take(np.clip(t, 0, 1024, out=t).astype(np.int16), out=t, mode="clip")

    return Grid(nearest, (float(values[0]), float(values[-1])))


def reciprocal(x: Floats) -> Floats:
    """1 / x, and 0 for 0: a block of zeros then has codes of zero."""
    return np.where(np.abs(x) < _TINY, 0, 1 / np.where(np.abs(x) < _TINY, 1, x)).astype(np.float32)


def half(x: Floats) -> Floats:
    """x as it will be read back from F16."""
    return x.astype(np.float16).astype(np.float32)


def scaled(x: Floats, w: Floats | None, grid: Grid, tries: Sequence[float]) -> Floats:
    """The scale s [B] that makes x ≈ s · code best; a try is how far off the grid's end the largest weight is put."""
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    per_peak = reciprocal(peak)
    best, scale = np.full_like(peak, -1), np.zeros_like(peak)
    for end in grid.ends:
        for t in tries:
            _keep_scale(x, w, grid.nearest(x * (per_peak * np.float32(end + t))), best, scale)
    for _ in range(2):
        _keep_scale(x, w, grid.nearest(x * reciprocal(scale)), best, scale)
    return scale


def _keep_scale(x: Floats, w: Floats | None, q: Floats, best: Floats, scale: Floats) -> None:
    """Sets the scale that fits these codes best, where that leaves less error."""
    wq = q if w is None else w * q
    xq, qq = (wq * x).sum(axis=0), (wq * q).sum(axis=0)
    found = xq * reciprocal(qq)
    better = found * xq > best
    np.copyto(best, found * xq, where=better)
    np.copyto(scale, found, where=better)


def affine(x: Floats, w: Floats | None, high: int, tries: Sequence[float]) -> tuple[Floats, Floats]:
    """Scale s and offset m >= 0, both [B], that make x ≈ s · code - m best, codes from 0 to `high`."""
    low = np.minimum(x.min(axis=0), 0)
    per_range = reciprocal(x.max(axis=0) - low)
    sums = _Sums(x, w)
    nearest = integers(0, high).nearest
    for t in tries:
        q = x - low
        sums.keep(x, w, nearest(np.multiply(q, per_range * np.float32(high + t), out=q)))
    for _ in range(3):
        q = x + sums.offset
        sums.keep(x, w, nearest(np.multiply(q, reciprocal(sums.scale), out=q)))
    return sums.scale, sums.offset


class _Sums:
    """Moments of the blocks, and the best scale and offset so far."""

    def __init__(self, x: Floats, w: Floats | None) -> None:
        wx = x if w is None else w * x
        self.x = wx.sum(axis=0)
        self.one = np.full_like(self.x, len(x)) if w is None else w.sum(axis=0)
        self.scale, self.offset = np.zeros_like(self.x), np.maximum(-self.x / np.maximum(self.one, _TINY), 0)
        self.best = self.offset * (self.offset * self.one + 2 * self.x)  # where all codes are 0

    def keep(self, x: Floats, w: Floats | None, q: Floats) -> None:
        """Scale and offset by least squares for these codes, kept where they leave less error."""
        wq = q if w is None else w * q
        sq, sqq, sxq = wq.sum(axis=0), (wq * q).sum(axis=0), (wq * x).sum(axis=0)
        per_det = reciprocal(self.one * sqq - sq * sq)
        scale = (self.one * sxq - self.x * sq) * per_det
        offset = (sq * sxq - sqq * self.x) * per_det
        plain = (offset < 0) | (per_det <= 0)
        scale, offset = np.where(plain, sxq * reciprocal(sqq), scale), np.where(plain, 0, offset)
        gain = scale * (scale * sqq - 2 * sxq - 2 * offset * sq) + offset * (offset * self.one + 2 * self.x)
        better = gain < self.best
        for old, new in ((self.best, gain), (self.scale, scale), (self.offset, offset)):
            np.copyto(old, new, where=better)


def error(x: Floats, w: Floats | None, y: Floats) -> Floats:
    """Σ w (x - y)² of each block; y is overwritten."""
    y -= x
    y *= y
    if w is not None:
        y *= w
    total: Floats = y.sum(axis=0)
    return total
