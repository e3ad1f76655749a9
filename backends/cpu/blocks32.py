"""Types in blocks of 32 weights with one scale, and a minimum in some."""

from collections.abc import Callable
from typing import Any

from graphsched import dtypes
from graphsched.backends.cpu.forms import FORMS, Form, codes32, declare, no_minima
from graphsched.backends.cpu.jit import by_literal
from graphsched.backends.cpu.simd import get, load, splat_i8, xor_bits
from graphsched.backends.cpu.simd_int import concat, gather_f16, interleave16, nibbles
from graphsched.backends.cpu.vector import F16, I8


def scale(kind: int, block: int) -> float:
    """The scale of one block. For kernels."""
    raise NotImplementedError


def minimum(kind: int, block: int, scale: float) -> float:
    """Its minimum in units of the form's `shift_unit`. For kernels."""
    raise NotImplementedError


@by_literal(scale)
def _(kind: int) -> Callable[..., float]:
    return _half_at_0


@by_literal(minimum)
def _(kind: int) -> Callable[..., float]:
    return _half_at_2 if FORMS[kind].has_minima else no_minima


def _half_at_0(kind: int, block: int) -> float:
    return get(block, F16)


def _half_at_2(kind: int, block: int, scale: float) -> float:
    return get(block + 2, F16)


def _scales(size: int) -> Callable[..., Any]:
    def impl(kind: int, block: int) -> Any:
        return gather_f16(block, size, 16)

    return impl


def _minima(size: int) -> Callable[..., Any]:
    def impl(kind: int, block: int, scales: Any) -> Any:
        return gather_f16(block + 2, size, 16)

    return impl


def _two_blocks(t: int, size: int) -> Callable[..., Any]:
    def impl(kind: int, block: int, j: int) -> Any:
        return concat(codes32(t, block, 0), codes32(t, block + size, 0))

    return impl


def _q8_codes(kind: int, block: int, j: int) -> Any:
    return xor_bits(load(block + 2, I8, 32), splat_i8(128, 32))


def _q8_codes64(kind: int, block: int, j: int) -> Any:
    return xor_bits(concat(load(block + 2, I8, 32), load(block + 36, I8, 32)), splat_i8(128, 64))


def _q4_codes(kind: int, block: int, j: int) -> Any:
    packed = load(block + 2, I8, 16)  # low nibbles are weights 0 to 15, high ones 16 to 31
    return concat(nibbles(packed, 0), nibbles(packed, 1))


def _q4_codes64(kind: int, block: int, j: int) -> Any:
    packed = concat(load(block + 2, I8, 16), load(block + 20, I8, 16))
    return interleave16(nibbles(packed, 0), nibbles(packed, 1))


declare(Form(dtypes.Q8_0, _q8_codes, _q8_codes64, _scales(34), no_minima, offset=128))
declare(Form(dtypes.Q4_0, _q4_codes, _q4_codes64, _scales(18), no_minima, offset=8))
BLOCK32_TYPES = tuple(form.type for form in FORMS.values())
