"""Rows of the tensor types with kernels of their own, to float32."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats import codebook, kquants, ternary  # noqa: F401  # they declare their types
from graphsched.backends.cpu.formats.blocks32 import minimum, scale
from graphsched.backends.cpu.formats.forms import FORMS, codes32, minima, scales
from graphsched.backends.cpu.formats.interleaved import ROW_TYPES
from graphsched.backends.cpu.formats.ternary import row_scale
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.simd import (
    add_i32,
    get,
    load,
    load_first,
    mul,
    splat,
    splat_i8,
    store,
    store_first,
    sub,
    to_f32,
)
from graphsched.backends.cpu.language.simd_int import half_lanes, lane
from graphsched.backends.cpu.language.vector import F32, I8
from graphsched.types import dtypes

FLOAT_TYPES = (dtypes.F32, dtypes.F16, dtypes.BF16)
BLOCK_TYPES = tuple(form.type for form in FORMS.values() if form.type.interleave == 1)
NATIVE = FLOAT_TYPES + BLOCK_TYPES  # whose rows can be read one by one
READABLE = (*NATIVE, dtypes.Q8_KV)  # of which the last is a cache's only
PRODUCT_TYPES = NATIVE + ROW_TYPES
Q8_KV, Q8_KV_HEADER = dtypes.Q8_KV.id, dtypes.Q8_KV.row_header


def dequantize_row(kind: int, src: int, dst: int, n: int) -> None:
    """n elements of type `kind` at src -> float32 at dst. For kernels."""


@by_literal(dequantize_row)
def _(kind: int) -> Callable[..., None]:
    form = FORMS.get(kind)
    if kind == Q8_KV:
        return _from_q8_kv
    if form is None:
        return _from_float(kind)
    size, offset = form.type.nbytes, form.offset
    if form.type.block == 32:
        return _from_blocks32(kind, size, offset)
    if form.type.row_header:
        return _from_rows64(kind, size, offset, form.type.row_header)
    return _from_super(kind, size, offset, form.type.block, form.group)


def _from_float(k: int) -> Callable[..., None]:
    size = 4 if k == F32 else 2

    def impl(kind: int, src: int, dst: int, n: int) -> None:
        full = n // 16 * 16
        for i in range(0, full, 16):
            store(dst + 4 * i, load(src + size * i, k, 16), F32)
        if full < n:
            store_first(dst + 4 * full, load_first(src + size * full, k, 16, n - full), F32, n - full)

    return impl


def _from_q8_kv(kind: int, src: int, dst: int, n: int) -> None:
    scale = splat(get(src, F32), 16)
    for i in range(0, n, 16):
        store(dst + 4 * i, mul(scale, to_f32(load(src + Q8_KV_HEADER + i, I8, 16))), F32)


@helper
def _decoded(codes: Any, half: int, offset: int, scale: float, minimum: float) -> Any:
    """16 of 32 weights; the offset is taken off in bytes, where it is exact."""
    values = to_f32(half_lanes(add_i32(codes, splat_i8(-offset, 32)), half))
    scaled = mul(splat(scale, 16), values)
    return scaled if offset else sub(scaled, splat(minimum, 16))


def _from_blocks32(t: int, size: int, offset: int) -> Callable[..., None]:
    def impl(kind: int, src: int, dst: int, n: int) -> None:
        for b in range(n // 32):
            block, out = src + size * b, dst + 128 * b
            s = scale(t, block)
            m, codes = minimum(t, block, s), codes32(t, block, 0)
            store(out, _decoded(codes, 0, offset, s, m), F32)
            store(out + 64, _decoded(codes, 1, offset, s, m), F32)

    return impl


def _from_rows64(t: int, size: int, offset: int, header: int) -> Callable[..., None]:
    def impl(kind: int, src: int, dst: int, n: int) -> None:
        s = row_scale(t, src)
        for b in range(n // 64):
            for j in range(2):
                codes, out = codes32(t, src + header + size * b, j), dst + 256 * b + 128 * j
                store(out, _decoded(codes, 0, offset, s, s), F32)
                store(out + 64, _decoded(codes, 1, offset, s, s), F32)

    return impl


def _from_super(t: int, size: int, offset: int, length: int, group: int) -> Callable[..., None]:
    def impl(kind: int, src: int, dst: int, n: int) -> None:
        for b in range(n // length):
            block = src + size * b
            s = scales(t, block)
            m = minima(t, block, s)
            for j in range(length // 32):
                codes, out, low, high = (
                    codes32(t, block, j),
                    dst + 128 * (length // 32 * b + j),
                    32 * j // group,
                    (32 * j + 16) // group,
                )
                store(out, _decoded(codes, 0, offset, lane(s, low), lane(m, low)), F32)
                store(out + 64, _decoded(codes, 1, offset, lane(s, high), lane(m, high)), F32)

    return impl
