"""Ternary types: IQ2_BN and IQ1_BN have a scale in front of each row, TQ2_0 and TQ1_0 one behind each block of 256.

Two of them hold four codes a byte, the other two five base-3 digits.
"""

from collections.abc import Callable
from typing import Any, Final

from graphsched.backends.cpu.formats.forms import FORMS, Form, Ternary, declare, no_minima, pairs
from graphsched.backends.cpu.formats.kquants import crumb_codes, crumb_codes64
from graphsched.backends.cpu.formats.lookup import trit_table, trits
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.simd import get, load, splat, splat_i8
from graphsched.backends.cpu.language.simd_int import bit_field, concat, half_lanes
from graphsched.backends.cpu.language.vector import F16, F32, I8
from graphsched.types import dtypes

CRUMBS: Final = tuple((byte, field) for field in range(4) for byte in range(64))
# 52 bytes as 64 lanes: bytes 0 to 31, then 20 to 51, of which the first twelve are there twice and count once.
TRITS: Final = tuple(
    (None if 32 <= lane < 44 else lane - 12 * (lane >= 44), digit) for digit in range(5) for lane in range(64)
)


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


def no_scales(kind: int, block: int) -> Any:
    """Blocks have none: see `row_scale`."""
    raise NotImplementedError


def _iq2_codes(kind: int, block: int, j: int) -> Any:
    packed = load(block, I8, 16)
    return concat(bit_field(packed, 4 * j, 3), bit_field(packed, 4 * j + 2, 3))


def _iq2_codes64(kind: int, block: int, j: int) -> Any:
    packed = load(block, I8, 16)
    low = concat(bit_field(packed, 0, 3), bit_field(packed, 2, 3))
    return concat(low, concat(bit_field(packed, 4, 3), bit_field(packed, 6, 3)))


def _iq2_weight(byte: int, field: int) -> int:
    return byte // 16 * 64 + 16 * field + byte % 16


# Of each 16 weights, 15 are the digits of three bytes and one is a digit of the last byte. The 13 bytes are read as two
# overlapping eights: a vector of 13 would be taken apart byte by byte, and one of 16 would reach past the last row.
_POWERS = (81, 27, 9, 3, 1)
_LANES = (*range(8), *range(11, 16))  # of the 13 bytes
_BYTES = tuple(_LANES[3 * c + i // 5 if i < 15 else 12] for c in range(4) for i in range(16))
_DIGITS = tuple(_POWERS[i % 5] if i < 15 else _POWERS[c] for c in range(4) for i in range(16))
iq1_digits = trit_table("iq1_digits", _BYTES, _DIGITS)


def _iq1_codes(kind: int, block: int, j: int) -> Any:
    digits = iq1_digits(concat(load(block, I8, 8), load(block + 5, I8, 8)))
    return half_lanes(digits, 1) if j else half_lanes(digits, 0)


def _iq1_codes64(kind: int, block: int, j: int) -> Any:
    return iq1_digits(concat(load(block, I8, 8), load(block + 5, I8, 8)))


def _iq1_weight(byte: int, digit: int) -> int:
    """Digits in the order that multiplying by 3 brings them out: the block's last weights first."""
    block, at, i = 64 * (byte // 13), byte % 13, 4 - digit
    if at < 12:
        return block + at // 3 * 16 + at % 3 * 5 + i
    return block + 16 * i + 15 if i < 4 else -1


def _one_scale(at: int) -> Callable[..., Any]:
    def impl(kind: int, block: int) -> Any:
        return splat(get(block + at, F16), 1)

    return impl


def _tq2_weight(byte: int, field: int) -> int:
    return byte // 32 * 128 + 32 * field + byte % 32


@helper
def _power_of_3(n: int) -> int:
    return (0x511B090301 >> (8 * n)) & 0xFF  # 1, 3, 9, 27, 81


def _tq1_codes(kind: int, block: int, j: int) -> Any:
    """Digits of base-3 fractions: 32 bytes hold 5 × 32 weights, 16 hold 5 × 16, the last 4 hold 4 × 4."""
    if j < 5:
        return trits(load(block, I8, 32), splat_i8(_power_of_3(j), 32))
    rest = load(block + 32, I8, 16)
    first = trits(rest, splat_i8(_power_of_3(2 * j - 10), 16))
    if j < 7:
        return concat(first, trits(rest, splat_i8(_power_of_3(2 * j - 9), 16)))
    powers = concat(concat(splat_i8(1, 4), splat_i8(3, 4)), concat(splat_i8(9, 4), splat_i8(27, 4)))
    last = load(block + 48, I8, 4)
    four = concat(concat(last, last), concat(last, last))
    return concat(first, trits(four, powers))


def _tq1_weight(byte: int, digit: int) -> int:
    if byte < 32:
        return 32 * digit + byte
    if byte < 48:
        return 160 + 16 * digit + byte - 32
    return 240 + 4 * digit + byte - 48 if digit < 4 else -1


def _order(places: tuple[tuple[int | None, int], ...], weight: Callable[[int, int], int]) -> tuple[int, ...]:
    return tuple(-1 if byte is None else weight(byte, i) for byte, i in places)


_iq2, _tq2 = Ternary(_order(CRUMBS, _iq2_weight), 16), Ternary(_order(CRUMBS, _tq2_weight), 32)
_iq1, _tq1 = Ternary(_order(TRITS, _iq1_weight), 16), Ternary(_order(TRITS, _tq1_weight), 16)
declare(Form(dtypes.IQ2_BN, _iq2_codes, _iq2_codes64, no_scales, no_minima, group=0, offset=1, ternary=_iq2))
declare(Form(dtypes.IQ1_BN, _iq1_codes, _iq1_codes64, no_scales, no_minima, group=0, offset=1, ternary=_iq1))
declare(
    Form(
        dtypes.TQ2_0,
        crumb_codes(0),
        crumb_codes64(0),
        _one_scale(64),
        no_minima,
        group=256,
        offset=1,
        ternary=_tq2,
    )
)
declare(
    Form(
        dtypes.TQ1_0,
        _tq1_codes,
        pairs(dtypes.TQ1_0.id),
        _one_scale(52),
        no_minima,
        group=256,
        offset=1,
        ternary=_tq1,
    )
)
