"""Ternary types in blocks of 64 with one scale per row, in front of it."""

from collections.abc import Callable
from typing import Any

from graphsched import dtypes
from graphsched.backends.cpu.forms import FORMS, Form, declare, no_minima
from graphsched.backends.cpu.jit import by_literal
from graphsched.backends.cpu.lookup import trit_table
from graphsched.backends.cpu.simd import get, load
from graphsched.backends.cpu.simd_int import bit_field, concat, half_lanes
from graphsched.backends.cpu.vector import F16, F32, I8


def row_scale(kind: int, row: int) -> float:
    """The scale of a whole row. For kernels."""
    raise NotImplementedError


@by_literal(row_scale)
def _(kind: int) -> Callable[..., float]:
    def half(kind: int, row: int) -> float:
        return get(row, F16)

    def full(kind: int, row: int) -> float:
        return get(row, F32)

    return half if FORMS[kind].type.row_header == 2 else full


def _iq2_codes(kind: int, block: int, j: int) -> Any:
    packed = load(block, I8, 16)
    return concat(bit_field(packed, 4 * j, 3), bit_field(packed, 4 * j + 2, 3))


def _iq2_codes64(kind: int, block: int, j: int) -> Any:
    packed = load(block, I8, 16)
    low = concat(bit_field(packed, 0, 3), bit_field(packed, 2, 3))
    return concat(low, concat(bit_field(packed, 4, 3), bit_field(packed, 6, 3)))


# Of each 16 weights, 15 are the digits of three bytes and one is a digit of the last byte.
_POWERS = (81, 27, 9, 3, 1)
_BYTES = tuple(3 * c + i // 5 if i < 15 else 12 for c in range(4) for i in range(16))
_DIGITS = tuple(_POWERS[i % 5] if i < 15 else _POWERS[c] for c in range(4) for i in range(16))
iq1_digits = trit_table("iq1_digits", _BYTES, _DIGITS)


def _iq1_codes(kind: int, block: int, j: int) -> Any:
    digits = iq1_digits(load(block, I8, 13))
    return half_lanes(digits, 1) if j else half_lanes(digits, 0)


def _iq1_codes64(kind: int, block: int, j: int) -> Any:
    return iq1_digits(load(block, I8, 13))


def no_scales(kind: int, block: int) -> Any:
    """Blocks have none: see `row_scale`."""
    raise NotImplementedError


declare(Form(dtypes.IQ2_BN, _iq2_codes, _iq2_codes64, no_scales, no_minima, offset=1))
declare(Form(dtypes.IQ1_BN, _iq1_codes, _iq1_codes64, no_scales, no_minima, offset=1))
