"""The register tile of ternary products: a panel that keeps four codes a byte times 8 rows of activations, or 4.

A group's sum is one integer, its offset taken off. Then come the scales: of the weights, and of the row at the end.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.forms import Form, dot_codes
from graphsched.backends.cpu.language.simd import fma, load, mul, prefetch, to_f32
from graphsched.backends.cpu.language.simd_int import bit_field
from graphsched.backends.cpu.language.tile import byte_columns, columns, unrolled, zeros
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.language.vector import F32, I8, I32
from graphsched.backends.cpu.matmul.activations_tiles import TILE


def ternary_dots(form: Form) -> Callable[..., Any]:
    """`panel_dots` of a ternary type."""
    assert form.ternary is not None
    t, group, run = form.type.id, form.group, form.ternary.run
    field, lines_of = 4 * TILE * (run // 4), run // 8  # bytes of activations; blocks of 32 in 4 runs

    @unrolled
    def add_run(i: int, sums: Any, codes: Any, x: int, field: int) -> Any:
        """The i-th two bits of each byte times the activations of the i-th run."""
        return dot_codes(t, sums, bit_field(codes, 2 * i, 3), byte_columns(x + i * field, sums))

    def impl(kind: int, rows: int, operands: Any) -> Any:
        panel, q, d, shift, k, ahead, lines = operands
        scales, span = panel + PANEL * k // 4, group if group else k
        v, x, total = panel, q, zeros(rows, 16)
        for c in range(k // span):
            sums = columns(shift + 4 * TILE * c, 4, I32, rows, 16)
            for _ in range(span // (4 * run)):
                for _ in range(lines_of * lines):
                    prefetch(ahead)
                    ahead += 64
                for _ in range(run // 4):
                    sums = add_run(4, sums, load(v, I8, 64), x, field)
                    v, x = v + 64, x + 4 * TILE
                x += 3 * field
            total = fma(to_f32(sums), load(scales + 64 * c, F32, 16), total)
        return mul(total, columns(d, 4, F32, rows, 16))

    return impl
