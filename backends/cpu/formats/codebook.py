"""Types whose codes are indices into a codebook of 4 or 8 weights: IQ1, IQ2 and IQ3.

All weights of a super-block are small multiples of an eighth, a quarter or the whole of its scale, so that codes fit in
bytes exactly: magnitudes with a sign (IQ2, IQ3), or 8 g ± 1 for g of -1, 0, 1 (IQ1).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.formats.forms import Form, declare, halved, no_minima
from graphsched.backends.cpu.formats.kquants import spread_nibbles
from graphsched.backends.cpu.formats.lookup import (
    add_where,
    codebook,
    deposit,
    extract,
    half_value,
    with_signs,
)
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.simd import (
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
from graphsched.backends.cpu.language.simd_int import (
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
from graphsched.backends.cpu.language.vector import I8, I32, U8
from graphsched.types import dtypes

IQ1_OFFSET, IQ2_OFFSET, IQ3_XXS_OFFSET, IQ3_S_OFFSET = 9, 43, 62, 15
_ONES, _TOPS = 0x0101010101010101, 0xFE00FE00FE00FE00 - (1 << 64)


def _grid(name: str, times: int = 1, plus: int = 0) -> Callable[[], np.ndarray[Any, Any]]:
    """The codebook of a type as bytes [entries][4 or 8]; made when a kernel that has it is compiled."""

    def make() -> np.ndarray[Any, Any]:
        from gguf import quants

        codes = getattr(quants, name)
        codes.init_grid()
        return (codes.grid.reshape(codes.grid_shape) * times + plus).astype(np.uint8)

    return make


iq1_grid = codebook("iq1_grid", _grid("IQ1_S", 8, 8))
iq2_xxs_grid = codebook("iq2_xxs_grid", _grid("IQ2_XXS"))
iq2_xs_grid = codebook("iq2_xs_grid", _grid("IQ2_XS"))
iq2_s_grid = codebook("iq2_s_grid", _grid("IQ2_S"))
iq3_xxs_grid = codebook("iq3_xxs_grid", _grid("IQ3_XXS"))
iq3_s_grid = codebook("iq3_s_grid", _grid("IQ3_S"))


def odd_steps(kind: int, block: int) -> Any:
    """Scales of a block's groups in units of its own: odd numbers from 1 to 31, as bytes. For kernels."""


def half_bits(kind: int, block: int) -> int:
    """The bits of the block's own scale, an F16. For kernels."""
    raise NotImplementedError


@by_literal(odd_steps)
def _(kind: int) -> Callable[..., Any]:
    return _STEPS[kind]


@by_literal(half_bits)
def _(kind: int) -> Callable[..., int]:
    return _nibbles_of_iq1_m if kind == dtypes.by_name("IQ1_M").id else _first_two_bytes


@helper
def _odd8(v: Any) -> Any:
    """2 v + 1 in 8 bytes"""
    return add_i32(add_i32(v, v), splat_i8(1, 8))


@helper
def _odd16(v: Any) -> Any:
    return add_i32(add_i32(v, v), splat_i8(1, 16))


def _iq2_xxs_steps(kind: int, block: int) -> Any:
    return _odd8(nibbles(every(load(block + 2, I8, 64), 7, 8), 1))


@helper
def _sixteen_nibbles(at: int) -> Any:
    q = word(at, 0)
    return concat(as_bytes(spread_nibbles(q)), as_bytes(spread_nibbles(q >> 32)))


def _iq2_xs_steps(kind: int, block: int) -> Any:
    return _odd16(_sixteen_nibbles(block + 66))


def _iq2_s_steps(kind: int, block: int) -> Any:
    return _odd16(_sixteen_nibbles(block + 74))


def _iq3_xxs_steps(kind: int, block: int) -> Any:
    return _odd8(nibbles(every(load(block + 66, I8, 32), 3, 4), 1))


def _iq3_s_steps(kind: int, block: int) -> Any:
    return _odd8(as_bytes(spread_nibbles(get(block + 106, I32))))


def _iq1_s_steps(kind: int, block: int) -> Any:
    return _odd8(bit_field(every(load(block + 34, I8, 16), 1, 2), 4, 7))


@helper
def _three_bits(q: int) -> int:
    """4 × 3 bits in each of the two low halves of q, as bytes of a word."""
    q = q & 0xFFF | (q & 0xFFF0000) << 16
    q = q & 0x3F0000003F | (q & 0xFC000000FC0) << 10
    return q & 0x0007000700070007 | (q & 0x0038003800380038) << 5


def _iq1_m_steps(kind: int, block: int) -> Any:
    q = word(block + 48, 0)
    return _odd16(concat(as_bytes(_three_bits(q)), as_bytes(_three_bits(q >> 32))))


def _first_two_bytes(kind: int, block: int) -> int:
    return get(block, U8) | get(block + 1, U8) << 8


def _nibbles_of_iq1_m(kind: int, block: int) -> int:
    """The tops of four halves that hold the groups' scales."""
    q = word(block + 48, 0)
    return q >> 12 & 0xF | q >> 24 & 0xF0 | q >> 36 & 0xF00 | q >> 48 & 0xF000


def _scales(t: int, groups: int, unit: float) -> Callable[..., Any]:
    """Of that many groups; `unit` is what codes are multiples of."""

    def impl(kind: int, block: int) -> Any:
        return mul(
            splat(half_value(half_bits(t, block)) * np.float32(unit), groups), to_f32(odd_steps(t, block))
        )

    return impl


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


_STEPS: dict[int, Callable[..., Any]] = {}  # by type id


def _declare(
    name: str, codes64: Callable[..., Any], steps: Callable[..., Any], group: int, offset: int, unit: float
) -> None:
    type = dtypes.by_name(name)
    _STEPS[type.id] = steps
    scales = _scales(type.id, 256 // group, unit)
    declare(Form(type, halved(type.id), codes64, scales, no_minima, group=group, offset=offset))


_declare("IQ2_XXS", _iq2_xxs_codes64, _iq2_xxs_steps, 32, IQ2_OFFSET, 0.125)
_declare("IQ2_XS", _iq2_xs_codes64, _iq2_xs_steps, 16, IQ2_OFFSET, 0.125)
_declare("IQ2_S", _iq2_s_codes64, _iq2_s_steps, 16, IQ2_OFFSET, 0.125)
_declare("IQ3_XXS", _iq3_xxs_codes64, _iq3_xxs_steps, 32, IQ3_XXS_OFFSET, 0.25)
_declare("IQ3_S", _iq3_s_codes64, _iq3_s_steps, 32, IQ3_S_OFFSET, 1.0)
_declare("IQ1_S", _iq1_s_codes64, _iq1_s_steps, 32, IQ1_OFFSET, 0.125)
_declare("IQ1_M", _iq1_m_codes64, _iq1_m_steps, 16, IQ1_OFFSET, 0.125)
