"""Four accumulators at once, one for each of four rows of activations: what register tiles are made of."""

from typing import Any

from graphsched.backends.cpu.formats.forms import dot_codes
from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import get, splat, splat_i32, store_first
from graphsched.backends.cpu.language.simd_int import broadcast4
from graphsched.backends.cpu.language.vector import F32, I32


@helper
def start4(shift: int, offset: int) -> Any:
    """Four accumulators."""
    if offset == 0:
        zero = splat_i32(0, 16)
        return zero, zero, zero, zero
    return (
        splat_i32(get(shift, I32), 16),
        splat_i32(get(shift + 4, I32), 16),
        splat_i32(get(shift + 8, I32), 16),
        splat_i32(get(shift + 12, I32), 16),
    )


@helper
def dot4(kind: int, u: Any, x: int, i: Any) -> Any:
    """Adds the products of one vector of codes with 4 codes of each of four rows of activations."""
    return (
        dot_codes(kind, i[0], u, broadcast4(x)),
        dot_codes(kind, i[1], u, broadcast4(x + 4)),
        dot_codes(kind, i[2], u, broadcast4(x + 8)),
        dot_codes(kind, i[3], u, broadcast4(x + 12)),
    )


@helper
def zeros4() -> Any:
    zero = splat(0.0, 16)
    return zero, zero, zero, zero


@helper
def put4(y: int, y_row: int, order: int, first: int, end: int, left: int, f: Any) -> None:
    """Stores sums of rows first to first + 3, as far as there are (end), where `order` says or in order."""
    if first < end:
        store_first(y + placed(order, first) * y_row, f[0], F32, left)
    if first + 1 < end:
        store_first(y + placed(order, first + 1) * y_row, f[1], F32, left)
    if first + 2 < end:
        store_first(y + placed(order, first + 2) * y_row, f[2], F32, left)
    if first + 3 < end:
        store_first(y + placed(order, first + 3) * y_row, f[3], F32, left)


@helper
def placed(order: int, i: int) -> int:
    return get(order + 4 * i, I32) if order else i
