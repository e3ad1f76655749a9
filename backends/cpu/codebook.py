"""Types whose codes are indices into a codebook of 4 or 8 weights: IQ1, IQ2 and IQ3.

All weights of a super-block are small multiples of an eighth, a quarter or the whole of its scale, so that codes fit in
bytes exactly: magnitudes with a sign (IQ2, IQ3), or 8 g ± 1 for g of -1, 0, 1 (IQ1).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched import dtypes
from graphsched.backends.cpu.forms import Form, declare, no_minima
from graphsched.backends.cpu.jit import helper
from graphsched.backends.cpu.kquants import spread_nibbles
from graphsched.backends.cpu.lookup import add_where, codebook, deposit, extract, half_value, with_signs
from graphsched.backends.cpu.simd import (
    add_i32,
    and_bits,
    get,
    load,
    mul,
    mul_i32,
    splat,
    splat_i8,
    splat_i32,
    to_f32,
    word,
)
from graphsched.backends.cpu.simd_int import (
    as_bytes,
    bit_field,
    concat,
    every,
    half_lanes,
    nibbles,
    spread_bits,
    unsigned,
    unsigned_pairs,
)
from graphsched.backends.cpu.vector import F16, I8, I32, U8

IQ1_OFFSET, IQ2_OFFSET, IQ3_XXS_OFFSET, IQ3_S_OFFSET = 9, 43, 62, 15
_ONES, _TOPS = 0x0101010101010101, 0xFE00FE00FE00FE00 - (1 << 64)


def _grid(name: str, times: int = 1, plus: int = 0) -> Callable[[], np.ndarray[Any, Any]]:
    """The codebook of a type as bytes [entries][4 or 8]; made when a kernel that has it is compiled."""

    def make() -> np.ndarray[Any, Any]:
        from gguf import quants

        of = getattr(quants, name)
        of.init_grid()
        return (of.grid.reshape(of.grid_shape) * times + plus).astype(np.uint8)

    return make


iq1_grid = codebook("iq1_grid", _grid("IQ1_S", 8, 8))
iq2_xxs_grid = codebook("iq2_xxs_grid", _grid("IQ2_XXS"))
iq2_xs_grid = codebook("iq2_xs_grid", _grid("IQ2_XS"))
iq2_s_grid = codebook("iq2_s_grid", _grid("IQ2_S"))
iq3_xxs_grid = codebook("iq3_xxs_grid", _grid("IQ3_XXS"))
iq3_s_grid = codebook("iq3_s_grid", _grid("IQ3_S"))


@helper
def _join(a: int, b: int, c: int, d: int) -> Any:
    """Four words as 32 bytes."""
    return concat(concat(as_bytes(a), as_bytes(b)), concat(as_bytes(c), as_bytes(d)))


@helper
def _even_signs(x: int) -> int:
    """4 × 7 sign bits, one group per byte; the eighth of each makes their number even."""
    p = x ^ (x >> 4)
    p ^= p >> 2
    p ^= p >> 1
    return x | (p & 0x01010101) << 7


@helper
def _sevens(x: int) -> int:
    """The low 28 bits of x, seven per byte."""
    return x & 0x7F | (x & 0x3F80) << 1 | (x & 0x1FC000) << 2 | (x & 0xFE00000) << 3


@helper
def _odd8(v: Any) -> Any:
    """2 v + 1 in 8 lanes"""
    return to_f32(add_i32(add_i32(v, v), splat_i8(1, 8)))


@helper
def _odd16(v: Any) -> Any:
    return to_f32(add_i32(add_i32(v, v), splat_i8(1, 16)))


def _iq2_xxs_codes(kind: int, block: int, j: int) -> Any:
    q, s = get(block + 2 + 8 * j, I32), get(block + 6 + 8 * j, I32)
    a, b, c, d = q & 255, q >> 8 & 255, q >> 16 & 255, q >> 24 & 255
    v = _join(iq2_xxs_grid(a), iq2_xxs_grid(b), iq2_xxs_grid(c), iq2_xxs_grid(d))
    return with_signs(v, _even_signs(_sevens(s)), IQ2_OFFSET)


def _iq2_xxs_scales(kind: int, block: int) -> Any:
    top = nibbles(every(load(block + 2, I8, 64), 7, 8), 1)
    return mul(splat(get(block, F16) * np.float32(0.125), 8), _odd8(top))


def _iq2_xs_codes(kind: int, block: int, j: int) -> Any:
    q = word(block + 2 + 8 * j, 0)
    a, b, c, d = q & 511, q >> 16 & 511, q >> 32 & 511, q >> 48 & 511
    signs = q >> 9 & 127 | (q >> 25 & 127) << 8 | (q >> 41 & 127) << 16 | (q >> 57 & 127) << 24
    v = _join(iq2_xs_grid(a), iq2_xs_grid(b), iq2_xs_grid(c), iq2_xs_grid(d))
    return with_signs(v, _even_signs(signs), IQ2_OFFSET)


@helper
def _sixteen_nibbles(at: int) -> Any:
    q = word(at, 0)
    return concat(as_bytes(spread_nibbles(q)), as_bytes(spread_nibbles(q >> 32)))


def _iq2_xs_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block, F16) * np.float32(0.125), 16), _odd16(_sixteen_nibbles(block + 66)))


def _iq2_s_codes(kind: int, block: int, j: int) -> Any:
    q, h = get(block + 2 + 4 * j, I32), get(block + 66 + j, U8)
    a, b = q & 255 | (h & 3) << 8, q >> 8 & 255 | (h & 12) << 6
    c, d = q >> 16 & 255 | (h & 48) << 4, q >> 24 & 255 | (h & 192) << 2
    v = _join(iq2_s_grid(a), iq2_s_grid(b), iq2_s_grid(c), iq2_s_grid(d))
    return with_signs(v, get(block + 34 + 4 * j, I32), IQ2_OFFSET)


def _iq2_s_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block, F16) * np.float32(0.125), 16), _odd16(_sixteen_nibbles(block + 74)))


@helper
def _iq3_xxs_pair(q: int) -> int:
    return iq3_xxs_grid(q & 255) | iq3_xxs_grid(q >> 8 & 255) << 32


def _iq3_xxs_codes(kind: int, block: int, j: int) -> Any:
    q = word(block + 2 + 8 * j, 0)
    v = _join(_iq3_xxs_pair(q), _iq3_xxs_pair(q >> 16), _iq3_xxs_pair(q >> 32), _iq3_xxs_pair(q >> 48))
    return with_signs(v, _even_signs(_sevens(get(block + 66 + 4 * j, I32))), IQ3_XXS_OFFSET)


def _iq3_xxs_scales(kind: int, block: int) -> Any:
    top = nibbles(every(load(block + 66, I8, 32), 3, 4), 1)
    return mul(splat(get(block, F16) * np.float32(0.25), 8), _odd8(top))


@helper
def _iq3_s_pair(q: int, h: int) -> int:
    return iq3_s_grid(q & 255 | (h & 1) << 8) | iq3_s_grid(q >> 8 & 255 | (h & 2) << 7) << 32


def _iq3_s_codes(kind: int, block: int, j: int) -> Any:
    q, h = word(block + 2 + 8 * j, 0), get(block + 66 + j, U8)
    low = _iq3_s_pair(q, h), _iq3_s_pair(q >> 16, h >> 2)
    high = _iq3_s_pair(q >> 32, h >> 4), _iq3_s_pair(q >> 48, h >> 6)
    v = _join(low[0], low[1], high[0], high[1])
    return with_signs(v, get(block + 74 + 4 * j, I32), IQ3_S_OFFSET)


def _iq3_s_scales(kind: int, block: int) -> Any:
    return mul(splat(get(block, F16), 8), _odd8(as_bytes(spread_nibbles(get(block + 106, I32)))))


@helper
def _iq1_word(index: int, minus: int) -> int:
    """8 codes: those of the grid, minus or plus an eighth."""
    return iq1_grid(index) + _ONES * (2 - 2 * minus)


def _iq1_s_codes(kind: int, block: int, j: int) -> Any:
    q, h = get(block + 2 + 4 * j, I32), get(block + 34 + 2 * j, U8) | get(block + 35 + 2 * j, U8) << 8
    a, b = q & 255 | (h & 7) << 8, q >> 8 & 255 | (h >> 3 & 7) << 8
    c, d = q >> 16 & 255 | (h >> 6 & 7) << 8, q >> 24 & 255 | (h >> 9 & 7) << 8
    minus = h >> 15
    return _join(_iq1_word(a, minus), _iq1_word(b, minus), _iq1_word(c, minus), _iq1_word(d, minus))


def _iq1_s_scales(kind: int, block: int) -> Any:
    steps = bit_field(every(load(block + 34, I8, 16), 1, 2), 4, 7)
    return mul(splat(get(block, F16) * np.float32(0.125), 8), _odd8(steps))


def _iq1_m_codes(kind: int, block: int, j: int) -> Any:
    q, h = get(block + 4 * j, I32), get(block + 32 + 2 * j, U8) | get(block + 33 + 2 * j, U8) << 8
    a, b = q & 255 | (h & 7) << 8, q >> 8 & 255 | (h >> 4 & 7) << 8
    c, d = q >> 16 & 255 | (h >> 8 & 7) << 8, q >> 24 & 255 | (h >> 12 & 7) << 8
    first = _iq1_word(a, h >> 3 & 1), _iq1_word(b, h >> 7 & 1)
    last = _iq1_word(c, h >> 11 & 1), _iq1_word(d, h >> 15 & 1)
    return _join(first[0], first[1], last[0], last[1])


@helper
def _three_bits(q: int) -> int:
    """4 × 3 bits in each of the two low halves of q, as bytes of a word."""
    q = q & 0xFFF | (q & 0xFFF0000) << 16
    q = q & 0x3F0000003F | (q & 0xFC000000FC0) << 10
    return q & 0x0007000700070007 | (q & 0x0038003800380038) << 5


def _iq1_m_scales(kind: int, block: int) -> Any:
    q = word(block + 48, 0)
    d = half_value(q >> 12 & 0xF | q >> 24 & 0xF0 | q >> 36 & 0xF00 | q >> 48 & 0xF000)
    steps = concat(as_bytes(_three_bits(q)), as_bytes(_three_bits(q >> 32)))
    return mul(splat(d * np.float32(0.125), 16), _odd16(steps))


@helper
def _signs64(x: int) -> int:
    """8 × 7 sign bits as bytes; the eighth of each makes their number even."""
    x = deposit(x, 0x7F7F7F7F7F7F7F7F)
    p = x ^ (x >> 4)
    p ^= p >> 2
    p ^= p >> 1
    return x | (p & _ONES) << 7


@helper
def _above(low: Any, high: int) -> Any:
    """Indices of 8 low bits each, and above those the 8 bytes of a word."""
    return add_i32(low, mul_i32(unsigned(as_bytes(high)), splat_i32(256, 8)))


def _iq2_xxs_codes64(kind: int, block: int, j: int) -> Any:
    first, last = word(block + 2 + 16 * j, 0), word(block + 10 + 16 * j, 0)
    v = iq2_xxs_grid(unsigned(as_bytes(first & 0xFFFFFFFF | last << 32)))
    signs = first >> 32 & 0xFFFFFFF | (last >> 32 & 0xFFFFFFF) << 28
    return with_signs(v, _signs64(signs), IQ2_OFFSET)


def _iq2_xs_codes64(kind: int, block: int, j: int) -> Any:
    at = block + 2 + 16 * j
    v = iq2_xs_grid(and_bits(unsigned_pairs(load(at, I8, 16)), splat_i32(511, 8)))
    signs = extract(word(at, 0), _TOPS) | extract(word(at + 8, 0), _TOPS) << 28
    return with_signs(v, _signs64(signs), IQ2_OFFSET)


def _iq2_s_codes64(kind: int, block: int, j: int) -> Any:
    high = deposit(get(block + 66 + 2 * j, U8) | get(block + 67 + 2 * j, U8) << 8, 0x0303030303030303)
    v = iq2_s_grid(_above(unsigned(load(block + 2 + 8 * j, I8, 8)), high))
    return with_signs(v, word(block + 34 + 8 * j, 0), IQ2_OFFSET)


def _iq3_xxs_codes64(kind: int, block: int, j: int) -> Any:
    v, s = iq3_xxs_grid(unsigned(load(block + 2 + 16 * j, I8, 16))), word(block + 66 + 8 * j, 0)
    return with_signs(v, _signs64(s & 0xFFFFFFF | s >> 4 & 0xFFFFFFF0000000), IQ3_XXS_OFFSET)


def _iq3_s_codes64(kind: int, block: int, j: int) -> Any:
    high = get(block + 66 + 2 * j, U8) | get(block + 67 + 2 * j, U8) << 8
    low = unsigned(load(block + 2 + 16 * j, I8, 16))
    bits = half_lanes(spread_bits(high), 0)
    v = iq3_s_grid(add_i32(low, mul_i32(unsigned(bits), splat_i32(256, 16))))
    return with_signs(v, word(block + 74 + 8 * j, 0), IQ3_S_OFFSET)


def _iq1_s_codes64(kind: int, block: int, j: int) -> Any:
    h = get(block + 34 + 4 * j, I32)
    high = deposit(h & 0xFFF | h >> 4 & 0xFFF000, 0x0707070707070707)
    v = iq1_grid(_above(unsigned(load(block + 2 + 8 * j, I8, 8)), high))
    plus = 0xFFFFFFFF * (1 - (h >> 15 & 1)) | (0xFFFFFFFF * (1 - (h >> 31 & 1))) << 32
    return add_where(v, plus, 2)


def _iq1_m_codes64(kind: int, block: int, j: int) -> Any:
    h = deposit(get(block + 32 + 4 * j, I32) & 0xFFFFFFFF, 0x0F0F0F0F0F0F0F0F)
    v = iq1_grid(_above(unsigned(load(block + 8 * j, I8, 8)), h & 0x0707070707070707))
    return add_where(v, ((h >> 3 & _ONES) ^ _ONES) * 255, 2)


def _declare(
    name: str,
    codes: Callable[..., Any],
    codes64: Callable[..., Any],
    scales: Callable[..., Any],
    group: int,
    offset: int,
) -> None:
    type = dtypes.by_name(name)
    declare(Form(type, codes, codes64, scales, no_minima, group=group, offset=offset))


_declare("IQ2_XXS", _iq2_xxs_codes, _iq2_xxs_codes64, _iq2_xxs_scales, 32, IQ2_OFFSET)
_declare("IQ2_XS", _iq2_xs_codes, _iq2_xs_codes64, _iq2_xs_scales, 16, IQ2_OFFSET)
_declare("IQ2_S", _iq2_s_codes, _iq2_s_codes64, _iq2_s_scales, 16, IQ2_OFFSET)
_declare("IQ3_XXS", _iq3_xxs_codes, _iq3_xxs_codes64, _iq3_xxs_scales, 32, IQ3_XXS_OFFSET)
_declare("IQ3_S", _iq3_s_codes, _iq3_s_codes64, _iq3_s_scales, 32, IQ3_S_OFFSET)
_declare("IQ1_S", _iq1_s_codes, _iq1_s_codes64, _iq1_s_scales, 32, IQ1_OFFSET)
_declare("IQ1_M", _iq1_m_codes, _iq1_m_codes64, _iq1_m_scales, 16, IQ1_OFFSET)
