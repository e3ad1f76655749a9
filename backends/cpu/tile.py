"""Register tiles: 4 rows of activations by 4 rows of weights or keys, decoded once for all four."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.jit import by_literal
from graphsched.backends.cpu.simd import fma, load, load_first, splat, sum_16
from graphsched.backends.cpu.vector import F32


def load_row(kind: int, row: int, i: int) -> Any:
    """Elements i to i + 15 of a row of a float type as f32. For kernels."""
    raise NotImplementedError


def load_row_first(kind: int, row: int, i: int, count: int) -> Any:
    """The first `count` of them, zeros after. For kernels."""
    raise NotImplementedError


@by_literal(load_row)
def _(kind: int) -> Callable[..., Any]:
    size = 4 if kind == F32 else 2

    def impl(kind: int, row: int, i: int) -> Any:
        return load(row + size * i, kind, 16)

    return impl


@by_literal(load_row_first)
def _(kind: int) -> Callable[..., Any]:
    size = 4 if kind == F32 else 2

    def impl(kind: int, row: int, i: int, count: int) -> Any:
        return load_first(row + size * i, kind, 16, count)

    return impl


def dots_16(kind: int, x: int, x_row: int, w: int, w_row: int, last_x: int, last_w: int, k: int) -> Any:
    """Dot products of 4 rows of x (f32) with 4 rows of w: lane 4 i + j is x[i] · w[j].

    Row i is at x + min(i, last_x) · x_row, so that a tile at the edge reads rows that are there. For kernels.
    """
    raise NotImplementedError


def dots_16_at(kind: int, x: int, x1: int, x2: int, x3: int, w: int, w_row: int, last_w: int, k: int) -> Any:
    """The same with the four rows of x anywhere."""
    raise NotImplementedError


@by_literal(dots_16)
def _(t: int) -> Callable[..., Any]:
    def impl(kind: int, x: int, x_row: int, w: int, w_row: int, last_x: int, last_w: int, k: int) -> Any:
        x1, x2, x3 = x + min(1, last_x) * x_row, x + min(2, last_x) * x_row, x + min(3, last_x) * x_row
        return dots_16_at(t, x, x1, x2, x3, w, w_row, last_w, k)

    return impl


@by_literal(dots_16_at)
def _(t: int) -> Callable[..., Any]:
    def impl(kind: int, x: int, x1: int, x2: int, x3: int, w: int, w_row: int, last_w: int, k: int) -> Any:
        w1, w2, w3 = w + min(1, last_w) * w_row, w + min(2, last_w) * w_row, w + min(3, last_w) * w_row
        a = b = c = d = e = f = g = h = splat(0.0, 16)
        m = n = o = p = q = r = s = u = splat(0.0, 16)
        full = k // 16 * 16
        for i in range(0, full, 16):
            y0, y1, y2, y3 = load_row(t, w, i), load_row(t, w1, i), load_row(t, w2, i), load_row(t, w3, i)
            v = load(x + 4 * i, F32, 16)
            a, b, c, d = fma(y0, v, a), fma(y1, v, b), fma(y2, v, c), fma(y3, v, d)
            v = load(x1 + 4 * i, F32, 16)
            e, f, g, h = fma(y0, v, e), fma(y1, v, f), fma(y2, v, g), fma(y3, v, h)
            v = load(x2 + 4 * i, F32, 16)
            m, n, o, p = fma(y0, v, m), fma(y1, v, n), fma(y2, v, o), fma(y3, v, p)
            v = load(x3 + 4 * i, F32, 16)
            q, r, s, u = fma(y0, v, q), fma(y1, v, r), fma(y2, v, s), fma(y3, v, u)
        if full < k:
            left = k - full
            y0, y1 = load_row_first(t, w, full, left), load_row_first(t, w1, full, left)
            y2, y3 = load_row_first(t, w2, full, left), load_row_first(t, w3, full, left)
            v = load_first(x + 4 * full, F32, 16, left)
            a, b, c, d = fma(y0, v, a), fma(y1, v, b), fma(y2, v, c), fma(y3, v, d)
            v = load_first(x1 + 4 * full, F32, 16, left)
            e, f, g, h = fma(y0, v, e), fma(y1, v, f), fma(y2, v, g), fma(y3, v, h)
            v = load_first(x2 + 4 * full, F32, 16, left)
            m, n, o, p = fma(y0, v, m), fma(y1, v, n), fma(y2, v, o), fma(y3, v, p)
            v = load_first(x3 + 4 * full, F32, 16, left)
            q, r, s, u = fma(y0, v, q), fma(y1, v, r), fma(y2, v, s), fma(y3, v, u)
        return sum_16((a, b, c, d, e, f, g, h, m, n, o, p, q, r, s, u))

    return impl
