"""Types in blocks of 32 weights with one scale, and a minimum in some."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from graphsched.backends.cpu.formats.forms import FORMS, Form, codes32, declare, no_minima
from graphsched.backends.cpu.formats.lookup import table16
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.simd import (
    get,
    load,
    or_bits,
    splat,
    splat_i8,
    splat_i32,
    sub,
    xor_bits,
)
from graphsched.backends.cpu.language.simd_int import (
    bit_field,
    concat,
    gather_f16,
    gather_u8,
    half_exp2,
    lane,
    nibbles_by_run,
    shift_left,
    spread_bits,
)
from graphsched.backends.cpu.language.vector import F16, I8, I32, U8
from graphsched.types import dtypes

Q6_0 = dtypes.by_name("Q6_0")


def scale(kind: int, block: int) -> float:
    """The scale of one block. For kernels."""
    raise NotImplementedError


def minimum(kind: int, block: int, scale: float) -> float:
    """Its minimum in units of the form's `shift_unit`. For kernels."""
    raise NotImplementedError


@by_literal(scale)
def _(kind: int) -> Callable[..., float]:
    return _power if kind == dtypes.MXFP4.id else _half_at_0


@by_literal(minimum)
def _(kind: int) -> Callable[..., float]:
    return _less_half_at_2 if FORMS[kind].has_minima else no_minima


def _half_at_0(kind: int, block: int) -> float:
    return get(block, F16)


def _less_half_at_2(kind: int, block: int, scale: float) -> float:
    return -get(block + 2, F16)  # files store what is added


def _power(kind: int, block: int) -> float:
    return lane(half_exp2(splat_i32(get(block, U8), 8)), 0)


def _scales(size: int) -> Callable[..., Any]:
    def impl(kind: int, block: int) -> Any:
        return gather_f16(block, size, 16)

    return impl


def _minima(size: int) -> Callable[..., Any]:
    def impl(kind: int, block: int, scales: Any) -> Any:
        return sub(splat(0.0, 16), gather_f16(block + 2, size, 16))

    return impl


def _two_blocks(t: int, size: int) -> Callable[..., Any]:
    def impl(kind: int, block: int, j: int) -> Any:
        return concat(codes32(t, block, 0), codes32(t, block + size, 0))

    return impl


def _q8_codes(kind: int, block: int, j: int) -> Any:
    return xor_bits(load(block + 2, I8, 32), splat_i8(128, 32))


def _q8_codes64(kind: int, block: int, j: int) -> Any:
    return xor_bits(concat(load(block + 2, I8, 32), load(block + 36, I8, 32)), splat_i8(128, 64))


def _powers(kind: int, block: int) -> Any:
    return half_exp2(gather_u8(block, 17, 16))


@helper
def both_nibbles(at: int) -> Any:
    """32 codes in 16 bytes: low nibbles are weights 0 to 15, high ones 16 to 31."""
    packed = load(at, I8, 16)
    return nibbles_by_run(concat(packed, packed), 16)


@helper
def four_nibbles(first: int, second: int) -> Any:
    """The codes of two such blocks."""
    return concat(both_nibbles(first), both_nibbles(second))


def _nibble_codes(at: int) -> Callable[..., Any]:
    def impl(kind: int, block: int, j: int) -> Any:
        return both_nibbles(block + at)

    return impl


def _nibble_codes64(at: int, size: int) -> Callable[..., Any]:
    def impl(kind: int, block: int, j: int) -> Any:
        return four_nibbles(block + at, block + size + at)

    return impl


def _five_bit_codes(at: int) -> Callable[..., Any]:
    def impl(kind: int, block: int, j: int) -> Any:
        return or_bits(both_nibbles(block + at + 4), shift_left(spread_bits(get(block + at, I32)), 4))

    return impl


def _q6_codes(kind: int, block: int, j: int) -> Any:
    high = load(block + 2, I8, 8)  # of weights i, i + 16, i + 8 and i + 24 from the lowest bits up
    upper = concat(
        concat(bit_field(high, 0, 3), bit_field(high, 4, 3)),
        concat(bit_field(high, 2, 3), bit_field(high, 6, 3)),
    )
    return or_bits(both_nibbles(block + 10), shift_left(upper, 4))


# Values of 4-bit codes, shifted so that they are unsigned.
IQ4_OFFSET, FP4_OFFSET = 128, 12
_IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
IQ4_MIDDLES = tuple((a + b) / 2 for a, b in pairwise(_IQ4_VALUES))
_FP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice an E2M1 number
iq4_values = table16("iq4_values", tuple(v + IQ4_OFFSET for v in _IQ4_VALUES))
fp4_values = table16("fp4_values", tuple(v + FP4_OFFSET for v in _FP4_VALUES))


def iq4_from_nibbles(kind: int, nibbles: Any) -> Any:
    """Codes of IQ4_NL, plus their offset, from nibbles in bytes."""
    return iq4_values(nibbles)


def _fp4_from_nibbles(kind: int, nibbles: Any) -> Any:
    return fp4_values(nibbles)


def _iq4_codes(kind: int, block: int, j: int) -> Any:
    return iq4_values(both_nibbles(block + 2))


def _iq4_codes64(kind: int, block: int, j: int) -> Any:
    return iq4_values(four_nibbles(block + 2, block + 20))


def _fp4_codes(kind: int, block: int, j: int) -> Any:
    return fp4_values(both_nibbles(block + 1))


def _fp4_codes64(kind: int, block: int, j: int) -> Any:
    return fp4_values(four_nibbles(block + 1, block + 18))


declare(Form(dtypes.Q8_0, _q8_codes, _q8_codes64, _scales(34), no_minima, offset=128))
declare(
    Form(
        dtypes.Q4_0,
        _nibble_codes(2),
        _nibble_codes64(2, 18),
        _scales(18),
        no_minima,
        offset=8,
        nibbles=(2, 16),
    )
)
declare(
    Form(dtypes.Q4_1, _nibble_codes(4), _nibble_codes64(4, 20), _scales(20), _minima(20), nibbles=(4, 16))
)
declare(
    Form(dtypes.Q5_0, _five_bit_codes(2), _two_blocks(dtypes.Q5_0.id, 22), _scales(22), no_minima, offset=16)
)
declare(Form(dtypes.Q5_1, _five_bit_codes(4), _two_blocks(dtypes.Q5_1.id, 24), _scales(24), _minima(24)))
declare(Form(Q6_0, _q6_codes, _two_blocks(Q6_0.id, 26), _scales(26), no_minima, offset=32))
declare(
    Form(
        dtypes.IQ4_NL,
        _iq4_codes,
        _iq4_codes64,
        _scales(18),
        no_minima,
        offset=IQ4_OFFSET,
        nibbles=(2, 16),
        from_nibbles=iq4_from_nibbles,
    )
)
declare(
    Form(
        dtypes.MXFP4,
        _fp4_codes,
        _fp4_codes64,
        _powers,
        no_minima,
        offset=FP4_OFFSET,
        nibbles=(1, 16),
        from_nibbles=_fp4_from_nibbles,
    )
)
