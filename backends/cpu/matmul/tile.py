"""Register tiles: 4 rows of activations by 4 rows of weights or keys, decoded once for all four."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import by_literal
from graphsched.backends.cpu.language.simd import fma, load, load_first, splat, sum_16
from graphsched.backends.cpu.language.vector import F32


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
    size = 4 if t == F32 else 2

    def impl(kind: int, x: int, x1: int, x2: int, x3: int, w: int, w_row: int, last_w: int, k: int) -> Any:
        w1, w2, w3 = w + min(1, last_w) * w_row, w + min(2, last_w) * w_row, w + min(3, last_w) * w_row
        a = b = c = d = e = f = g = h = splat(0.0, 16)
        m = n = o = p = q = r = s = u = splat(0.0, 16)
        full = k // 16 * 16
        for i in range(0, full, 16):
            at = size * i
            y0, y1, y2, y3 = (
                load(w + at, t, 16),
                load(w1 + at, t, 16),
                load(w2 + at, t, 16),
                load(w3 + at, t, 16),
            )
            v = load(x + 4 * i, F32, 16)
            a, b, c, d = fma(y0, v, a), fma(y1, v, b), fma(y2, v, c), fma(y3, v, d)
            v = load(x1 + 4 * i, F32, 16)
            e, f, g, h = fma(y0, v, e), fma(y1, v, f), fma(y2, v, g), fma(y3, v, h)
            v = load(x2 + 4 * i, F32, 16)
            m, n, o, p = fma(y0, v, m), fma(y1, v, n), fma(y2, v, o), fma(y3, v, p)
            v = load(x3 + 4 * i, F32, 16)
            q, r, s, u = fma(y0, v, q), fma(y1, v, r), fma(y2, v, s), fma(y3, v, u)
        if full < k:
            left, at = k - full, size * full
            y0, y1 = load_first(w + at, t, 16, left), load_first(w1 + at, t, 16, left)
            y2, y3 = load_first(w2 + at, t, 16, left), load_first(w3 + at, t, 16, left)
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
