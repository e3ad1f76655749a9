"""The register tile of 8-bit products: a panel of 16 weight rows times 8 rows of activations, or 4.

Integer sums are exact: accumulators start at -offset · Σ q, so that codes may stay unsigned. Minima are taken off in
float32, a group at a time.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.forms import FORMS, Form
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.simd import fma, get, load, mul, prefetch, splat, to_f32
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.language.vector import F32, I8
from graphsched.backends.cpu.matmul.activations_tiles import TILE
from graphsched.backends.cpu.matmul.block4 import dot4, start4, zeros4
from graphsched.backends.cpu.matmul.tile_ternary import ternary4, ternary8


@helper
def scale4(s: Any, d: int, i: Any, f: Any) -> Any:
    return (
        fma(to_f32(i[0]), mul(s, splat(get(d, F32), 16)), f[0]),
        fma(to_f32(i[1]), mul(s, splat(get(d + 4, F32), 16)), f[1]),
        fma(to_f32(i[2]), mul(s, splat(get(d + 8, F32), 16)), f[2]),
        fma(to_f32(i[3]), mul(s, splat(get(d + 12, F32), 16)), f[3]),
    )


@helper
def less4(m: Any, shift: int, f: Any) -> Any:
    """Takes off the minima."""
    return (
        fma(m, splat(get(shift, F32), 16), f[0]),
        fma(m, splat(get(shift + 4, F32), 16), f[1]),
        fma(m, splat(get(shift + 8, F32), 16), f[2]),
        fma(m, splat(get(shift + 12, F32), 16), f[3]),
    )


def tile8(kind: int, panel: int, q: int, d: int, shift: int, k: int, ahead: int, lines: int) -> Any:
    """(4 sums of 16 rows, 4 more) of a panel and a tile of k activations. For kernels.

    Meanwhile `lines` cache lines per block of 32 arrive from `ahead`.
    """
    raise NotImplementedError


def tile4(kind: int, panel: int, q: int, d: int, shift: int, k: int, ahead: int, lines: int) -> Any:
    """The first 4 of them."""
    raise NotImplementedError


@by_literal(tile8)
def _(t: int) -> Callable[..., Any]:
    return ternary8(FORMS[t]) if FORMS[t].ternary else _tile8(FORMS[t])


def _tile8(form: Form) -> Callable[..., Any]:
    t = form.type.id
    group, offset, has_minima, per_32 = form.group, form.offset, form.has_minima, 32 // form.group

    def impl(kind: int, panel: int, q: int, d: int, shift: int, k: int, ahead: int, lines: int) -> Any:
        scales = panel + PANEL * k
        minima = scales + 4 * PANEL * (k // group)
        f, g = zeros4(), zeros4()
        for b in range(k // 32):
            for line in range(lines):
                prefetch(ahead + 64 * (b * lines + line))
            for half in range(per_32):
                c = per_32 * b + half
                i, j = start4(shift + 4 * TILE * c, offset), start4(shift + 4 * TILE * c + 16, offset)
                for four in range(group // 4):
                    at = group // 4 * c + four
                    u, x = load(panel + 64 * at, I8, 64), q + 4 * TILE * at
                    i, j = dot4(t, u, x, i), dot4(t, u, x + 16, j)
                s = load(scales + 64 * c, F32, 16)
                f, g = scale4(s, d + 4 * TILE * b, i, f), scale4(s, d + 4 * TILE * b + 16, j, g)
                if has_minima:
                    m = load(minima + 64 * c, F32, 16)
                    f, g = less4(m, shift + 4 * TILE * c, f), less4(m, shift + 4 * TILE * c + 16, g)
        return f, g

    return impl


@by_literal(tile4)
def _(t: int) -> Callable[..., Any]:
    return ternary4(FORMS[t]) if FORMS[t].ternary else _tile4(FORMS[t])


def _tile4(form: Form) -> Callable[..., Any]:
    t = form.type.id
    group, offset, has_minima, per_32 = form.group, form.offset, form.has_minima, 32 // form.group

    def impl(kind: int, panel: int, q: int, d: int, shift: int, k: int, ahead: int, lines: int) -> Any:
        scales = panel + PANEL * k
        minima = scales + 4 * PANEL * (k // group)
        f = zeros4()
        for b in range(k // 32):
            for line in range(lines):
                prefetch(ahead + 64 * (b * lines + line))
            for half in range(per_32):
                c = per_32 * b + half
                i = start4(shift + 4 * TILE * c, offset)
                for four in range(group // 4):
                    at = group // 4 * c + four
                    i = dot4(t, load(panel + 64 * at, I8, 64), q + 4 * TILE * at, i)
                f = scale4(load(scales + 64 * c, F32, 16), d + 4 * TILE * b, i, f)
                if has_minima:
                    f = less4(load(minima + 64 * c, F32, 16), shift + 4 * TILE * c, f)
        return f

    return impl
