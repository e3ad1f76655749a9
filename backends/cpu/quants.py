"""Rows of the tensor types with kernels of their own: to float32, from float32."""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched import dtypes
from graphsched.backends.cpu.jit import by_literal, helper
from graphsched.backends.cpu.simd import (
    absolute,
    get,
    load,
    load_first,
    max_lanes,
    maximum,
    mul,
    nearest,
    put,
    splat,
    splat_i8,
    store,
    store_first,
    sub,
    to_f32,
    to_i8,
    xor_bits,
)
from graphsched.backends.cpu.simd_int import concat, interleave16, nibbles
from graphsched.backends.cpu.vector import F16, F32, I8

FLOAT_TYPES = (dtypes.F32, dtypes.F16, dtypes.BF16)
BLOCK32_TYPES = (dtypes.Q8_0, dtypes.Q4_0)  # blocks of 32 with one F16 scale: value = scale · (code - offset)
NATIVE = FLOAT_TYPES + BLOCK32_TYPES
Q4_0, Q8_0 = dtypes.Q4_0.id, dtypes.Q8_0.id


def dequantize_row(kind: int, src: int, dst: int, n: int) -> None:
    """n elements of type `kind` at src -> float32 at dst. For kernels."""


@by_literal(dequantize_row)
def _(kind: int) -> Callable[..., None]:
    return {Q8_0: _from_q8_0, Q4_0: _from_q4_0}.get(kind) or _from_float(kind)


def _from_float(k: int) -> Callable[..., None]:
    size = 4 if k == F32 else 2

    def impl(kind: int, src: int, dst: int, n: int) -> None:
        full = n // 16 * 16
        for i in range(0, full, 16):
            store(dst + 4 * i, load(src + size * i, k, 16), F32)
        if full < n:
            store_first(dst + 4 * full, load_first(src + size * full, k, 16, n - full), F32, n - full)

    return impl


def _from_q8_0(kind: int, src: int, dst: int, n: int) -> None:
    for b in range(n // 32):
        block = src + 34 * b
        scale = splat(get(block, F16), 16)
        for i in range(0, 32, 16):
            store(dst + 4 * (32 * b + i), mul(scale, to_f32(load(block + 2 + i, I8, 16))), F32)


def _from_q4_0(kind: int, src: int, dst: int, n: int) -> None:
    for b in range(n // 32):
        block = src + 18 * b
        scale, eight = splat(get(block, F16), 16), splat(8.0, 16)
        packed = load(block + 2, I8, 16)
        for half in range(2):  # low nibbles are weights 0 to 15, high ones 16 to 31
            codes = to_f32(nibbles(packed, half))
            store(dst + 4 * (32 * b + 16 * half), mul(scale, sub(codes, eight)), F32)


def quantize_row(kind: int, src: int, dst: int, n: int) -> None:
    """n float32 at src -> type `kind` (F32, F16, Q8_0) at dst. For kernels."""


@by_literal(quantize_row)
def _(kind: int) -> Callable[..., None]:
    return _to_q8_0 if kind == Q8_0 else _to_float(kind)


def _to_float(k: int) -> Callable[..., None]:
    size = 4 if k == F32 else 2

    def impl(kind: int, src: int, dst: int, n: int) -> None:
        full = n // 16 * 16
        for i in range(0, full, 16):
            store(dst + size * i, load(src + 4 * i, F32, 16), k)
        if full < n:
            store_first(dst + size * full, load_first(src + 4 * full, F32, 16, n - full), k, n - full)

    return impl


@helper
def q8_block(src: int) -> tuple[float, Any, Any]:
    """32 float32 as (scale, 16 codes, 16 codes): scale = max |x| / 127. The one routine that rounds to 8 bits."""
    low, high = load(src, F32, 16), load(src + 64, F32, 16)
    scale = max_lanes(maximum(absolute(low), absolute(high))) / np.float32(127.0)
    inverse = splat(np.float32(1.0) / scale if scale > 0.0 else np.float32(0.0), 16)
    return scale, to_i8(nearest(mul(low, inverse))), to_i8(nearest(mul(high, inverse)))


def _to_q8_0(kind: int, src: int, dst: int, n: int) -> None:
    for b in range(n // 32):
        scale, low, high = q8_block(src + 128 * b)
        put(dst + 34 * b, scale, F16)
        store(dst + 34 * b + 2, low, I8)
        store(dst + 34 * b + 18, high, I8)


def codes32(kind: int, block: int) -> Any:
    """The 32 codes of a block as unsigned bytes, in order; weight = scale · (code - offset). For kernels."""


def codes64(kind: int, block: int) -> Any:
    """The codes of two neighbouring blocks. For kernels."""


def _q8_codes(kind: int, block: int) -> Any:
    return xor_bits(load(block + 2, I8, 32), splat_i8(128, 32))


def _q4_codes(kind: int, block: int) -> Any:
    packed = load(block + 2, I8, 16)
    return concat(nibbles(packed, 0), nibbles(packed, 1))


def _q8_codes64(kind: int, block: int) -> Any:
    return xor_bits(concat(load(block + 2, I8, 32), load(block + 36, I8, 32)), splat_i8(128, 64))


def _q4_codes64(kind: int, block: int) -> Any:
    packed = concat(load(block + 2, I8, 16), load(block + 20, I8, 16))
    return interleave16(nibbles(packed, 0), nibbles(packed, 1))


@by_literal(codes32)
def _(kind: int) -> Callable[..., Any]:
    return {Q8_0: _q8_codes, Q4_0: _q4_codes}[kind]


@by_literal(codes64)
def _(kind: int) -> Callable[..., Any]:
    return {Q8_0: _q8_codes64, Q4_0: _q4_codes64}[kind]


BLOCK_BYTES = {Q8_0: 34, Q4_0: 18}
OFFSET = {Q8_0: 128, Q4_0: 8}
