"""Keys and values of cells as attention reads them: products with one query, and weighted sums."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.lanes import for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.simd import (
    add_i32,
    fma,
    get,
    load,
    mul,
    splat,
    splat_i8,
    store,
    sum_lanes,
    to_f32,
)
from graphsched.backends.cpu.language.simd_int import nibbles
from graphsched.backends.cpu.language.vector import F16, F32, I8
from graphsched.backends.cpu.matmul.matvec import dot_row
from graphsched.types import dtypes

KV_TYPES = (dtypes.F32, dtypes.F16, dtypes.BF16, dtypes.Q8_0, dtypes.Q4_0)
Q8_0, Q4_0 = dtypes.Q8_0.id, dtypes.Q4_0.id


def dot_kv(kind: int, key: int, q: int, n: int) -> float:
    """Σ key[i] · q[i] with a key of type `kind` and float32 q. For kernels."""
    raise NotImplementedError


def add_scaled(kind: int, value: int, p: float, y: int, n: int) -> None:
    """y[i] += p · value[i]. For kernels."""


@by_literal(dot_kv)
def _(t: int) -> Callable[..., float]:
    if t in (Q8_0, Q4_0):
        return _dot_blocks(t, 34 if t == Q8_0 else 18)

    def impl(kind: int, key: int, q: int, n: int) -> float:
        return dot_row(t, key, q, 0, 0, n)

    return impl


def _dot_blocks(t: int, size: int) -> Callable[..., float]:
    def impl(kind: int, key: int, q: int, n: int) -> float:
        acc = splat(0.0, 16)
        for b in range(n // 32):
            low = mul(_codes(t, key + size * b, 0), load(q + 128 * b, F32, 16))
            both = fma(_codes(t, key + size * b, 1), load(q + 128 * b + 64, F32, 16), low)
            acc = fma(splat(get(key + size * b, F16), 16), both, acc)
        return sum_lanes(acc)

    return impl


@helper
def _codes(t: int, block: int, half: int) -> Any:
    """16 of the 32 codes of a Q8_0 or Q4_0 block."""
    if t == Q8_0:
        return to_f32(load(block + 2 + 16 * half, I8, 16))
    return to_f32(add_i32(nibbles(load(block + 2, I8, 16), half), splat_i8(-8, 16)))


@by_literal(add_scaled)
def _(t: int) -> Callable[..., None]:
    if t in (Q8_0, Q4_0):
        return _add_blocks(t, 34 if t == Q8_0 else 18)
    return _add_float(t, 4 if t == F32 else 2)


def _add_float(t: int, size: int) -> Callable[..., None]:
    @for_lanes(16)
    def add_block(i: int, block: Any, value: int, weight: Any, y: int) -> None:
        v = load_lanes(value + size * i, t, block)
        store_lanes(y + 4 * i, fma(weight, v, load_lanes(y + 4 * i, F32, block)), F32, block)

    def impl(kind: int, value: int, p: float, y: int, n: int) -> None:
        add_block(n, value, splat(p, 16), y)

    return impl


def _add_blocks(t: int, size: int) -> Callable[..., None]:
    def impl(kind: int, value: int, p: float, y: int, n: int) -> None:
        for b in range(n // 32):
            weight = splat(p * get(value + size * b, F16), 16)
            for half in range(2):
                at = y + 128 * b + 64 * half
                store(at, fma(weight, _codes(t, value + size * b, half), load(at, F32, 16)), F32)

    return impl
