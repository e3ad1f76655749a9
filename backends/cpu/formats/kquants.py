"""Types in super-blocks of 256 weights: 8 or 16 groups whose scales are themselves quantised."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.blocks32 import (
    IQ4_OFFSET,
    both_nibbles,
    four_nibbles,
    iq4_from_nibbles,
    iq4_values,
)
from graphsched.backends.cpu.formats.forms import Form, declare, no_minima
from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import (
    add_i32,
    get,
    load,
    mul,
    or_bits,
    splat,
    splat_i8,
    to_f32,
    word,
)
from graphsched.backends.cpu.language.simd_int import as_bytes, bit_field, concat, nibbles, shift_left
from graphsched.backends.cpu.language.vector import F16, I8, I32
from graphsched.types import dtypes

_BYTES_63, _BYTES_15, _BYTES_3 = 0x3F3F3F3F3F3F3F3F, 0x0F0F0F0F0F0F0F0F, 0x0303030303030303
_HALF_15, _HALF_3, _WORD = 0x0F0F0F0F, 0x03030303, 0xFFFFFFFF


@helper
def six_bits(packed: int) -> tuple[int, int]:
    """8 scales and 8 minima of 6 bits, as bytes of two words: 12 bytes hold 4 + 4 whole, and 4 + 4 in parts."""
    whole, nibble = word(packed, 0), get(packed + 8, I32)
    first = whole & _BYTES_63  # 4 scales, 4 minima
    top = ((whole >> 6) & _BYTES_3) << 4
    low = (nibble & _HALF_15) | (((nibble >> 4) & _HALF_15) << 32)
    last = top | low
    return (first & _WORD) | ((last & _WORD) << 32), ((first >> 32) & _WORD) | (last & ~_WORD)


def _q4_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block, F16), 8), to_f32(as_bytes(six_bits(block + 4)[0])))


def _q4_minima(kind: int, block: int, scales: Any) -> Any:
    return mul(splat(get(block + 2, F16), 8), to_f32(as_bytes(six_bits(block + 4)[1])))


def _q4_codes(kind: int, block: int, j: int) -> Any:
    return nibbles(load(block + 16 + 32 * (j >> 1), I8, 32), j & 1)


def _q4_codes64(kind: int, block: int, j: int) -> Any:
    packed = load(block + 16 + 32 * j, I8, 32)
    return concat(nibbles(packed, 0), nibbles(packed, 1))


def _q5_codes(kind: int, block: int, j: int) -> Any:
    fifth = bit_field(load(block + 16, I8, 32), j, 1)
    return or_bits(nibbles(load(block + 48 + 32 * (j >> 1), I8, 32), j & 1), shift_left(fifth, 4))


def _q5_codes64(kind: int, block: int, j: int) -> Any:
    packed, high = load(block + 48 + 32 * j, I8, 32), load(block + 16, I8, 32)
    fifth = concat(bit_field(high, 2 * j, 1), bit_field(high, 2 * j + 1, 1))
    return or_bits(concat(nibbles(packed, 0), nibbles(packed, 1)), shift_left(fifth, 4))


def _q6_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block + 208, F16), 16), to_f32(load(block + 192, I8, 16)))


def _q6_codes(kind: int, block: int, j: int) -> Any:
    # 128 weights: 64 bytes of low nibbles, then of high ones; 32 bytes with the upper two bits of all four parts
    low = nibbles(load(block + 64 * (j >> 2) + 32 * (j & 1), I8, 32), (j >> 1) & 1)
    high = bit_field(load(block + 128 + 32 * (j >> 2), I8, 32), 2 * (j & 3), 3)
    return or_bits(low, shift_left(high, 4))


def _q6_codes64(kind: int, block: int, j: int) -> Any:
    low = nibbles(load(block + 64 * (j >> 1), I8, 64), j & 1)
    upper, at = load(block + 128 + 32 * (j >> 1), I8, 32), 4 * (j & 1)
    return or_bits(low, shift_left(concat(bit_field(upper, at, 3), bit_field(upper, at + 2, 3)), 4))


@helper
def iq4_steps(block: int) -> Any:
    """The scales of 8 groups before they are multiplied with the block's."""
    low, high = word(block, 0) >> 32, word(block, 0) >> 16  # 8 × 4 bits; 8 × 2 bits
    codes = spread_nibbles(low) | (spread_crumbs(high) << 4)
    return add_i32(as_bytes(codes), splat_i8(-32, 8))


def _iq4_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block, F16), 8), to_f32(iq4_steps(block)))


def _iq4_codes(kind: int, block: int, j: int) -> Any:
    return iq4_values(both_nibbles(block + 8 + 16 * j))


def _iq4_codes64(kind: int, block: int, j: int) -> Any:
    return iq4_values(four_nibbles(block + 8 + 32 * j, block + 24 + 32 * j))


@helper
def spread_nibbles(x: int) -> int:
    """The low 8 half-bytes of x as bytes of a word."""
    x &= 0xFFFFFFFF
    x = (x | x << 16) & 0x0000FFFF0000FFFF
    x = (x | x << 8) & 0x00FF00FF00FF00FF
    return (x | x << 4) & 0x0F0F0F0F0F0F0F0F


@helper
def spread_crumbs(x: int) -> int:
    """The low 8 pairs of bits of x as bytes of a word."""
    x &= 0xFFFF
    x = (x | x << 24) & 0x000000FF000000FF
    x = (x | x << 12) & 0x000F000F000F000F
    return (x | x << 6) & _BYTES_3


@helper
def q3_steps(block: int) -> Any:
    """The scales of 16 groups before they are multiplied with the block's."""
    low, high = word(block + 96, 0), get(block + 104, I32)
    first = (low & _BYTES_15) | ((high & _HALF_3) << 4) | (((high >> 2) & _HALF_3) << 36)
    last = ((low >> 4) & _BYTES_15) | (((high >> 4) & _HALF_3) << 4) | (((high >> 6) & _HALF_3) << 36)
    return add_i32(concat(as_bytes(first), as_bytes(last)), splat_i8(-32, 16))


def _q3_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block + 108, F16), 16), to_f32(q3_steps(block)))


def _q3_codes(kind: int, block: int, j: int) -> Any:
    third = bit_field(load(block, I8, 32), j, 1)
    return or_bits(bit_field(load(block + 32 + 32 * (j >> 2), I8, 32), 2 * (j & 3), 3), shift_left(third, 2))


def _q3_codes64(kind: int, block: int, j: int) -> Any:
    low, high, at = load(block + 32 + 32 * (j >> 1), I8, 32), load(block, I8, 32), 4 * (j & 1)
    third = concat(bit_field(high, 2 * j, 1), bit_field(high, 2 * j + 1, 1))
    return or_bits(concat(bit_field(low, at, 3), bit_field(low, at + 2, 3)), shift_left(third, 2))


def _q2_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block + 80, F16), 16), to_f32(nibbles(load(block, I8, 16), 0)))


def _q2_minima(kind: int, block: int, scales: Any) -> Any:
    return mul(splat(get(block + 82, F16), 16), to_f32(nibbles(load(block, I8, 16), 1)))


def crumb_codes(at: int) -> Callable[..., Any]:
    """32 of 256 weights; 128 are in 32 bytes, the first 32 in the lowest two bits."""

    def impl(kind: int, block: int, j: int) -> Any:
        return bit_field(load(block + at + 32 * (j >> 2), I8, 32), 2 * (j & 3), 3)

    return impl


def crumb_codes64(at: int) -> Callable[..., Any]:
    """64 of them."""

    def impl(kind: int, block: int, j: int) -> Any:
        packed, shift = load(block + at + 32 * (j >> 1), I8, 32), 4 * (j & 1)
        return concat(bit_field(packed, shift, 3), bit_field(packed, shift + 2, 3))

    return impl


declare(Form(dtypes.Q4_K, _q4_codes, _q4_codes64, _q4_scales, _q4_minima, nibbles=(16, 32)))
declare(Form(dtypes.Q5_K, _q5_codes, _q5_codes64, _q4_scales, _q4_minima))
declare(Form(dtypes.Q6_K, _q6_codes, _q6_codes64, _q6_scales, no_minima, group=16, offset=32))
declare(
    Form(
        dtypes.IQ4_XS,
        _iq4_codes,
        _iq4_codes64,
        _iq4_scales,
        no_minima,
        offset=IQ4_OFFSET,
        nibbles=(8, 16),
        from_nibbles=iq4_from_nibbles,
    )
)
declare(Form(dtypes.Q3_K, _q3_codes, _q3_codes64, _q3_scales, no_minima, group=16, offset=4))
declare(Form(dtypes.Q2_K, crumb_codes(16), crumb_codes64(16), _q2_scales, _q2_minima, group=16))
