"""Products with row-interleaved types: of a group of rows with one token, and panels of 16 rows for more."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.forms import dot_codes
from graphsched.backends.cpu.formats.interleaved import ROW_FORMS, row_codes
from graphsched.backends.cpu.formats.interleaved_lanes import (
    row_activations,
    row_scales,
    start_rows,
    store_codes,
    store_scales,
)
from graphsched.backends.cpu.language.jit import by_literal
from graphsched.backends.cpu.language.prefetch import ask_ahead
from graphsched.backends.cpu.language.simd import fma, get, mul, splat, to_f32
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.language.vector import F32, I32


def dot_rows(kind: int, w: int, x: int, d: int, isum: int, k: int) -> Any:
    """Σ w[r, i] · x[i] of a group of rows, spread over their lanes; operands as in `dot_row`. For kernels."""


@by_literal(dot_rows)
def _(t: int) -> Callable[..., Any]:
    form = ROW_FORMS[t]
    return _dot_of_4(t, form.block_bytes) if len(form.words) == 4 else _dot_of_2(t, form.block_bytes)


def _dot_of_4(t: int, size: int) -> Callable[..., Any]:
    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> Any:
        acc = splat(0.0, 16)
        for b in range(k // 32):
            block, q = w + size * b, x + 32 * b
            ask_ahead(block, size)
            i = start_rows(t, get(isum + 4 * b, I32))
            i = dot_codes(t, i, row_codes(t, block, 0), row_activations(t, 0, q))
            i = dot_codes(t, i, row_codes(t, block, 1), row_activations(t, 1, q))
            i = dot_codes(t, i, row_codes(t, block, 2), row_activations(t, 2, q))
            i = dot_codes(t, i, row_codes(t, block, 3), row_activations(t, 3, q))
            acc = fma(to_f32(i), mul(row_scales(t, block), splat(get(d + 4 * b, F32), 16)), acc)
        return acc

    return impl


def _dot_of_2(t: int, size: int) -> Callable[..., Any]:
    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> Any:
        acc = splat(0.0, 16)
        for b in range(k // 32):
            block, q = w + size * b, x + 32 * b
            ask_ahead(block, size)
            i = start_rows(t, get(isum + 4 * b, I32))
            i = dot_codes(t, i, row_codes(t, block, 0), row_activations(t, 0, q))
            i = dot_codes(t, i, row_codes(t, block, 1), row_activations(t, 1, q))
            acc = fma(to_f32(i), mul(row_scales(t, block), splat(get(d + 4 * b, F32), 16)), acc)
        return acc

    return impl


def panel_of_rows(kind: int, w: int, w_row: int, n: int, k: int, panel: int) -> None:
    """n rows at w (of more than 16 the first 16) -> a panel; the last group fills up. For kernels."""


@by_literal(panel_of_rows)
def _(t: int) -> Callable[..., None]:
    form = ROW_FORMS[t]
    group, size, four = form.rows, form.block_bytes, int(len(form.words) == 4)

    def impl(kind: int, w: int, w_row: int, n: int, k: int, panel: int) -> None:
        scale_at = panel + PANEL * k
        for first in range(0, PANEL, group):
            rows = w + min(first, n - group) * w_row
            for b in range(k // 32):
                block, codes = rows + size * b, panel + 512 * b + 4 * first
                store_scales(t, scale_at + 64 * b + 4 * first, block)
                store_codes(t, 0, codes, row_codes(t, block, 0))
                store_codes(t, 1, codes, row_codes(t, block, 1))
                if four:
                    store_codes(t, 2, codes, row_codes(t, block, 2))
                    store_codes(t, 3, codes, row_codes(t, block, 3))

    return impl
