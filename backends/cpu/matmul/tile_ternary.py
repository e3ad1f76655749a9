"""The register tile of ternary products: a panel that keeps four codes a byte times 8 rows of activations, or 4.

A group's sum is one integer, its offset taken off. Then come the scales: of the weights, and of the row at the end.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.forms import Form, dot_codes
from graphsched.backends.cpu.language.dot_bytes import pair_fours, whole
from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import add_i32, fma, load, mul, prefetch, to_f32
from graphsched.backends.cpu.language.simd_int import bit_field
from graphsched.backends.cpu.language.tile import byte_columns, columns, unrolled, zeros, zeros_i16
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.language.vector import F32, I8, I32
from graphsched.backends.cpu.matmul.activations_tiles import TILE


def ternary_dots(form: Form) -> Callable[..., Any]:
    """`panel_dots` of a ternary type."""
    assert form.ternary is not None
    group, run = form.group, form.ternary.run
    add_runs, lines_of = _runs(form), run // 8  # blocks of 32 in 4 runs

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
                sums = add_runs(sums, rows, v, x)
                v, x = v + 16 * run, x + 4 * TILE * run
            total = fma(to_f32(sums), load(scales + 64 * c, F32, 16), total)
        return mul(total, columns(d, 4, F32, rows, 16))

    return impl


def _runs(form: Form) -> Callable[..., Any]:
    """(sums, rows, codes, activations) -> sums of four runs more, which are as many dot products as a run has codes."""
    assert form.ternary is not None
    t, run = form.type.id, form.ternary.run
    field = TILE * run  # bytes of activations

    @unrolled
    def add_run(i: int, sums: Any, codes: Any, x: int, field: int) -> Any:
        """The i-th two bits of each byte times the activations of the i-th run."""
        return dot_codes(t, sums, bit_field(codes, 2 * i, 3), byte_columns(x + i * field, sums))

    @helper
    def add_all(sums: Any, v: int, x: int) -> Any:
        for i in range(run // 4):
            sums = add_run(4, sums, load(v + 64 * i, I8, 64), x + 4 * TILE * i, field)
        return sums

    @helper
    def add_pairs(sums: Any, rows: int, v: int, x: int) -> Any:
        return add_i32(sums, whole(add_all(zeros_i16(rows, 32), v, x)))

    @helper
    def add_words(sums: Any, rows: int, v: int, x: int) -> Any:
        return add_all(sums, v, x)

    return add_pairs if pair_fours(form.most) >= run else add_words
