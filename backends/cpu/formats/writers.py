"""Rows of float32 to the types of a KV cache, as ggml's reference quantisers round them: without a search."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from graphsched.backends.cpu.formats.blocks32 import IQ4_MIDDLES, IQ4_OFFSET, iq4_values
from graphsched.backends.cpu.formats.int8 import q8_block, q8_scale
from graphsched.backends.cpu.formats.rows import FLOAT_TYPES, Q8_KV, Q8_KV_HEADER
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.simd import (
    absolute,
    add,
    add_i32,
    fma,
    get,
    load,
    load_first,
    maximum,
    mul,
    nearest,
    or_bits,
    put,
    splat,
    splat_i8,
    store,
    store_first,
    sum_lanes,
    to_f32,
    to_i8,
    where_less,
)
from graphsched.backends.cpu.language.simd_int import shift_left
from graphsched.backends.cpu.language.vector import F16, F32, I8, I32, U8
from graphsched.types import dtypes

NOTHING: Final = np.float32(1e-15)  # ggml takes a block with no value above for zeros


def quantize_row(kind: int, src: int, dst: int, n: int) -> None:
    """n float32 at src -> type `kind` (of CACHE_TYPES) at dst, n a multiple of its block. For kernels."""


@by_literal(quantize_row)
def _(kind: int) -> Callable[..., None]:
    if kind == Q8_KV:
        return _to_q8_kv
    block = _BLOCKS.get(kind)
    return _to_float(kind) if block is None else _to_blocks(*block)


def _to_float(k: int) -> Callable[..., None]:
    size = 4 if k == F32 else 2

    def impl(kind: int, src: int, dst: int, n: int) -> None:
        full = n // 16 * 16
        for i in range(0, full, 16):
            store(dst + size * i, load(src + 4 * i, F32, 16), k)
        if full < n:
            store_first(dst + size * full, load_first(src + 4 * full, F32, 16, n - full), k, n - full)

    return impl


def _to_blocks(size: int, put_block: Callable[[int, int], None]) -> Callable[..., None]:
    def impl(kind: int, src: int, dst: int, n: int) -> None:
        for b in range(n // 32):
            put_block(src + 128 * b, dst + size * b)

    return impl


def _to_q8_kv(kind: int, src: int, dst: int, n: int) -> None:
    """One scale for the row, the sum of its codes, then the codes."""
    largest, total = splat(0.0, 16), splat(0.0, 16)
    for i in range(0, n, 16):
        largest = maximum(largest, absolute(load(src + 4 * i, F32, 16)))
    scale, inverse = q8_scale(largest)
    for i in range(0, n, 16):
        codes = nearest(mul(load(src + 4 * i, F32, 16), inverse))
        store(dst + Q8_KV_HEADER + i, to_i8(codes), I8)
        total = add(total, codes)
    put(dst, scale, F32)
    put(dst + 4, int(sum_lanes(total)), I32)


@helper
def _put_q8_0(at: int, block: int) -> None:
    scale, low, high = q8_block(at)
    put(block, scale, F16)
    store(block + 2, low, I8)
    store(block + 18, high, I8)


@helper
def _farthest(at: int) -> Any:
    """The first of the values farthest from 0."""
    farthest = np.float32(0.0)
    for i in range(32):
        if abs(get(at + 4 * i, F32)) > abs(farthest):
            farthest = get(at + 4 * i, F32)
    return farthest


@helper
def _inverse(scale: float) -> Any:
    return np.float32(1.0) / scale if scale != 0.0 else np.float32(0.0)


@helper
def _put_q4_0(at: int, block: int) -> None:
    """Scale = the value farthest from 0 / -8: that value is kept exactly, as code 0."""
    scale = _farthest(at) / np.float32(-8.0)
    inverse = _inverse(scale)
    put(block, scale, F16)
    for i in range(16):
        put(block + 2 + i, _code4(at + 4 * i, inverse) | _code4(at + 64 + 4 * i, inverse) << 4, U8)


@helper
def _code4(at: int, inverse: float) -> int:
    code = int(get(at, F32) * inverse + np.float32(8.5))
    return code if code < 15 else 15


@helper
def _put_q5_1(at: int, block: int) -> None:
    """The smallest and the largest value have the outermost codes; the fifth bits are a word of their own."""
    low = high = get(at, F32)
    for i in range(1, 32):
        low, high = min(low, get(at + 4 * i, F32)), max(high, get(at + 4 * i, F32))
    scale = (high - low) / np.float32(31.0)
    inverse, fifth = _inverse(scale), 0
    put(block, scale, F16)
    put(block + 2, low, F16)
    for i in range(16):
        a, b = _code5(at + 4 * i, low, inverse), _code5(at + 64 + 4 * i, low, inverse)
        put(block + 8 + i, a & 15 | (b & 15) << 4, U8)
        fifth |= a >> 4 << i | b >> 4 << i + 16
    put(block + 4, fifth, I32)


@helper
def _code5(at: int, low: float, inverse: float) -> int:
    code = int((get(at, F32) - low) * inverse + np.float32(0.5))
    return code if code < 31 else 31


@helper
def _put_iq4_nl(at: int, block: int) -> None:
    """Codes with the value farthest from 0 as the outermost, then the scale that fits them best by weights of x²."""
    farthest = _farthest(at)
    if abs(farthest) < NOTHING:
        put(block, np.float32(0.0), F16)
        store(block + 2, splat_i8(0, 16), I8)
        return
    inverse = splat(np.float32(1.0) / (farthest / np.float32(-127.0)), 16)
    x, y = load(at, F32, 16), load(at + 64, F32, 16)
    a, b = _nearest_iq4(mul(x, inverse)), _nearest_iq4(mul(y, inverse))
    v, w = _iq4_floats(a), _iq4_floats(b)
    vx, wy = mul(mul(x, x), v), mul(mul(y, y), w)
    by_value, by_code = sum_lanes(fma(vx, x, mul(wy, y))), sum_lanes(fma(vx, v, mul(wy, w)))
    put(block, by_value / by_code if by_code > 0.0 else np.float32(0.0), F16)
    store(block + 2, or_bits(a, shift_left(b, 4)), I8)


@helper
def _nearest_iq4(x: Any) -> Any:
    """Codes of the nearest values: how many of the middles between values each x reaches."""
    reached = splat(np.float32(0.0), 16)
    for middle in IQ4_MIDDLES:
        reached = add(
            reached,
            where_less(x, splat(middle, 16), splat(np.float32(0.0), 16), splat(np.float32(1.0), 16)),
        )
    return to_i8(reached)


@helper
def _iq4_floats(codes: Any) -> Any:
    return to_f32(add_i32(iq4_values(codes), splat_i8(-IQ4_OFFSET, 16)))


# type id -> bytes of a block of 32 values, and what writes one
_BLOCKS: Final = {
    dtypes.Q8_0.id: (34, _put_q8_0),
    dtypes.Q4_0.id: (18, _put_q4_0),
    dtypes.Q5_1.id: (24, _put_q5_1),
    dtypes.IQ4_NL.id: (18, _put_iq4_nl),
}
CACHE_TYPES: Final = (*FLOAT_TYPES, *map(dtypes.by_id, _BLOCKS), dtypes.Q8_KV)  # what a row can be written as
