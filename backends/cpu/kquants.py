"""Types in super-blocks of 256 weights: 8 or 16 groups whose scales are themselves quantised."""

from typing import Any

from graphsched import dtypes
from graphsched.backends.cpu.forms import FORMS, Form, declare, no_minima
from graphsched.backends.cpu.jit import helper
from graphsched.backends.cpu.simd import get, load, mul, or_bits, splat, to_f32, word
from graphsched.backends.cpu.simd_int import as_bytes, bit_field, concat, nibbles, shift_left
from graphsched.backends.cpu.vector import F16, I8, I32

_BYTES_63, _BYTES_15, _BYTES_3 = 0x3F3F3F3F3F3F3F3F, 0x0F0F0F0F, 0x0303030303030303
_WORD = 0xFFFFFFFF


@helper
def _six_bits(packed: int) -> tuple[int, int]:
    """8 scales and 8 minima of 6 bits, as bytes of two words: 12 bytes hold 4 + 4 whole, and 4 + 4 in parts."""
    whole, nibble = word(packed, 0), get(packed + 8, I32)
    first = whole & _BYTES_63  # 4 scales, 4 minima
    top = ((whole >> 6) & _BYTES_3) << 4
    low = (nibble & _BYTES_15) | (((nibble >> 4) & _BYTES_15) << 32)
    last = top | low
    return (first & _WORD) | ((last & _WORD) << 32), ((first >> 32) & _WORD) | (last & ~_WORD)


def _q4_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block, F16), 8), to_f32(as_bytes(_six_bits(block + 4)[0])))


def _q4_minima(kind: int, block: int, scales: Any) -> Any:
    return mul(splat(get(block + 2, F16), 8), to_f32(as_bytes(_six_bits(block + 4)[1])))


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


declare(Form(dtypes.Q4_K, _q4_codes, _q4_codes64, _q4_scales, _q4_minima))
declare(Form(dtypes.Q5_K, _q5_codes, _q5_codes64, _q4_scales, _q4_minima))
declare(Form(dtypes.Q6_K, _q6_codes, _q6_codes64, _q6_scales, no_minima, group=16, offset=32))
BLOCK256_TYPES = tuple(form.type for form in FORMS.values() if form.type.block == 256)
