"""The register tile of ternary products: a panel that keeps four codes a byte times 8 rows of activations, or 4.

A group's sum is one integer, its offset taken off. Then come the scales: of the weights, and of the row at the end.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.forms import Form
from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import fma, get, load, mul, prefetch, splat, to_f32
from graphsched.backends.cpu.language.simd_int import bit_field
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.language.vector import F32, I8
from graphsched.backends.cpu.matmul.activations_tiles import TILE
from graphsched.backends.cpu.matmul.block4 import dot4, start4, zeros4


@helper
def _scale4(s: Any, i: Any, f: Any) -> Any:
    return (
        fma(to_f32(i[0]), s, f[0]),
        fma(to_f32(i[1]), s, f[1]),
        fma(to_f32(i[2]), s, f[2]),
        fma(to_f32(i[3]), s, f[3]),
    )


@helper
def _times4(d: int, f: Any) -> Any:
    return (
        mul(f[0], splat(get(d, F32), 16)),
        mul(f[1], splat(get(d + 4, F32), 16)),
        mul(f[2], splat(get(d + 8, F32), 16)),
        mul(f[3], splat(get(d + 12, F32), 16)),
    )


def ternary8(form: Form) -> Callable[..., Any]:
    """`tile8` of a ternary type."""
    assert form.ternary is not None
    t, group, run = form.type.id, form.group, form.ternary.run
    field, lines_of = 4 * TILE * (run // 4), run // 8  # bytes of activations; blocks of 32 in 4 runs

    def impl(kind: int, panel: int, q: int, d: int, shift: int, k: int, ahead: int, lines: int) -> Any:
        scales, span = panel + PANEL * k // 4, group if group else k
        v, x, f, g = panel, q, zeros4(), zeros4()
        for c in range(k // span):
            i, j = start4(shift + 4 * TILE * c, 1), start4(shift + 4 * TILE * c + 16, 1)
            for _ in range(span // (4 * run)):
                for _ in range(lines_of * lines):
                    prefetch(ahead)
                    ahead += 64
                for _ in range(run // 4):
                    u = load(v, I8, 64)
                    a, b, e, h = (
                        bit_field(u, 0, 3),
                        bit_field(u, 2, 3),
                        bit_field(u, 4, 3),
                        bit_field(u, 6, 3),
                    )
                    i, j = dot4(t, a, x, i), dot4(t, a, x + 16, j)
                    i, j = dot4(t, b, x + field, i), dot4(t, b, x + field + 16, j)
                    i, j = dot4(t, e, x + 2 * field, i), dot4(t, e, x + 2 * field + 16, j)
                    i, j = dot4(t, h, x + 3 * field, i), dot4(t, h, x + 3 * field + 16, j)
                    v, x = v + 64, x + 4 * TILE
                x += 3 * field
            s = load(scales + 64 * c, F32, 16)
            f, g = _scale4(s, i, f), _scale4(s, j, g)
        return _times4(d, f), _times4(d + 16, g)

    return impl


def ternary4(form: Form) -> Callable[..., Any]:
    """`tile4` of a ternary type."""
    assert form.ternary is not None
    t, group, run = form.type.id, form.group, form.ternary.run
    field, lines_of = 4 * TILE * (run // 4), run // 8

    def impl(kind: int, panel: int, q: int, d: int, shift: int, k: int, ahead: int, lines: int) -> Any:
        scales, span = panel + PANEL * k // 4, group if group else k
        v, x, f = panel, q, zeros4()
        for c in range(k // span):
            i = start4(shift + 4 * TILE * c, 1)
            for _ in range(span // (4 * run)):
                for _ in range(lines_of * lines):
                    prefetch(ahead)
                    ahead += 64
                for _ in range(run // 4):
                    u = load(v, I8, 64)
                    i = dot4(t, bit_field(u, 0, 3), x, i)
                    i = dot4(t, bit_field(u, 2, 3), x + field, i)
                    i = dot4(t, bit_field(u, 4, 3), x + 2 * field, i)
                    i = dot4(t, bit_field(u, 6, 3), x + 3 * field, i)
                    v, x = v + 64, x + 4 * TILE
                x += 3 * field
            f = _scale4(load(scales + 64 * c, F32, 16), i, f)
        return _times4(d, f)

    return impl
