"""One row of ternary weights times one row of activations, exact in integers: mat-vec of ternary types.

256 weights are taken apart as they lie, with no shuffles: activations come in that order (`Ternary.order`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.formats.forms import FORMS, Form, Ternary, codes64, dot_codes, scales
from graphsched.backends.cpu.formats.lookup import times_3
from graphsched.backends.cpu.formats.ternary import row_scale
from graphsched.backends.cpu.language.dot_bytes import dot_u8_i8
from graphsched.backends.cpu.language.jit import by_literal
from graphsched.backends.cpu.language.prefetch import ask_ahead
from graphsched.backends.cpu.language.simd import add_i32, fma, get, load, mul_i32, splat_i32, sum_lanes
from graphsched.backends.cpu.language.simd_int import bit_field, concat, lane
from graphsched.backends.cpu.language.vector import F32, I8, I32

CHUNK = 128  # times 256 weights, whose sums fit into 24 bits: see `_trit_total`


def zeros_256(kind: int) -> Any:
    """Accumulators of 16 lanes, as many as hide the latency of products. For kernels."""


def dot_256(kind: int, acc: Any, w: int, x: int) -> Any:
    """The accumulators, plus the products of 256 packed weights at w. For kernels."""


def total_256(kind: int, acc: Any) -> int:
    """What the accumulators have summed up. For kernels."""
    raise NotImplementedError


@by_literal(zeros_256)
def _(t: int) -> Callable[..., Any]:
    return _six_zeros if _ternary(t).has_trits else _four_zeros


@by_literal(dot_256)
def _(t: int) -> Callable[..., Any]:
    return _trits if _ternary(t).has_trits else _crumbs


@by_literal(total_256)
def _(t: int) -> Callable[..., int]:
    return _trit_total if _ternary(t).has_trits else _crumb_total


def _ternary(t: int) -> Ternary:
    ternary = FORMS[t].ternary
    assert ternary is not None
    return ternary


def _crumbs(kind: int, acc: Any, w: int, x: int) -> Any:
    v = load(w, I8, 64)
    return (
        dot_codes(kind, acc[0], bit_field(v, 0, 3), load(x, I8, 64)),
        dot_codes(kind, acc[1], bit_field(v, 2, 3), load(x + 64, I8, 64)),
        dot_codes(kind, acc[2], bit_field(v, 4, 3), load(x + 128, I8, 64)),
        dot_codes(kind, acc[3], bit_field(v, 6, 3), load(x + 192, I8, 64)),
    )


def _crumb_total(kind: int, acc: Any) -> int:
    return sum_lanes(add_i32(add_i32(acc[0], acc[1]), add_i32(acc[2], acc[3])))


def _trits(kind: int, acc: Any, w: int, x: int) -> Any:
    """Digits are not worked out: with b' = 3 b mod 256 the next digit of b is (3 b - b') / 256.

    So Σ digit · x = (3 Σ b · x - Σ b' · x) / 256, two products and two sums of bytes per digit.
    """
    b0 = concat(load(w, I8, 32), load(w + 20, I8, 32))
    b1 = times_3(b0)
    b2 = times_3(b1)
    b3 = times_3(b2)
    b4 = times_3(b3)
    b5 = times_3(b4)
    x0, x1, x2, x3, x4 = (
        load(x, I8, 64),
        load(x + 64, I8, 64),
        load(x + 128, I8, 64),
        load(x + 192, I8, 64),
        load(x + 256, I8, 64),
    )
    return (
        dot_u8_i8(dot_u8_i8(acc[0], b0, x0), b3, x3),
        dot_u8_i8(dot_u8_i8(acc[1], b1, x1), b4, x4),
        dot_u8_i8(acc[2], b2, x2),
        dot_u8_i8(dot_u8_i8(acc[3], b1, x0), b4, x3),
        dot_u8_i8(dot_u8_i8(acc[4], b2, x1), b5, x4),
        dot_u8_i8(acc[5], b3, x2),
    )


def _trit_total(kind: int, acc: Any) -> int:
    """Lanes may wrap: 256 times the sum is right modulo 2^32, hence the sum where it fits into 24 bits."""
    by_3 = mul_i32(add_i32(add_i32(acc[0], acc[1]), acc[2]), splat_i32(3, 16))
    less = mul_i32(add_i32(add_i32(acc[3], acc[4]), acc[5]), splat_i32(-1, 16))
    return sum_lanes(add_i32(by_3, less)) >> 8


def _four_zeros(kind: int) -> Any:
    zero = splat_i32(0, 16)
    return zero, zero, zero, zero


def _six_zeros(kind: int) -> Any:
    zero = splat_i32(0, 16)
    return zero, zero, zero, zero, zero, zero


def ternary_row(form: Form) -> Callable[..., float]:
    """`dot_row` of a ternary type: x in the form's order, one scale at d, at isum the sums of x over groups."""
    return _row(form) if form.type.row_header else _blocks(form)


def _row(form: Form) -> Callable[..., float]:
    t, size, header = form.type.id, form.type.nbytes, form.type.row_header
    of_256, has_trits = len(_ternary(t).order), _ternary(t).has_trits

    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
        total, full = -get(isum, I32), k // 256
        acc = zeros_256(t)
        for b in range(full):
            ask_ahead(w + 4 * size * b, 4 * size)
            acc = dot_256(t, acc, w + header + 4 * size * b, x + of_256 * b)
            if has_trits and b % CHUNK == CHUNK - 1:
                total += total_256(t, acc)
                acc = zeros_256(t)
        total += total_256(t, acc)
        for b in range(4 * full, k // 64):  # these are in the file's order
            codes, q = codes64(t, w + header + size * b, 0), x + of_256 * full + 64 * (b - 4 * full)
            total += sum_lanes(dot_codes(t, splat_i32(0, 16), codes, load(q, I8, 64)))
        return fma(np.float32(total), row_scale(t, w), np.float32(0.0)) * get(d, F32)

    return impl


def _blocks(form: Form) -> Callable[..., float]:
    t, size, of_256 = form.type.id, form.type.nbytes, len(_ternary(form.type.id).order)

    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
        sum = np.float32(0.0)
        for b in range(k // 256):
            ask_ahead(w + size * b, size)
            total = total_256(t, dot_256(t, zeros_256(t), w + size * b, x + of_256 * b)) - get(
                isum + 4 * b, I32
            )
            sum = fma(np.float32(total), lane(scales(t, w + size * b), 0), sum)
        return sum * get(d, F32)

    return impl
