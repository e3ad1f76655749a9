"""Keys and values of cells as attention reads them: products with one query, and weighted sums."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.blocks32 import minimum, scale
from graphsched.backends.cpu.formats.forms import FORMS, Form, codes32
from graphsched.backends.cpu.formats.rows import Q8_KV, Q8_KV_HEADER
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.lanes import for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.simd import (
    add,
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
from graphsched.backends.cpu.language.simd_int import half_lanes
from graphsched.backends.cpu.language.vector import F32, I8
from graphsched.backends.cpu.matmul.matvec import dot_row


def dot_kv(kind: int, key: int, q: int, n: int) -> float:
    """Σ key[i] · q[i] with a key of type `kind` and float32 q. For kernels."""
    raise NotImplementedError


def add_scaled(kind: int, value: int, p: float, y: int, n: int) -> None:
    """y[i] += p · value[i]. For kernels."""


@by_literal(dot_kv)
def _(t: int) -> Callable[..., float]:
    if t == Q8_KV:
        return _dot_q8_kv
    if t in FORMS:
        return _dot_blocks(t, FORMS[t])

    def impl(kind: int, key: int, q: int, n: int) -> float:
        return dot_row(t, key, q, 0, 0, n)

    return impl


def _dot_q8_kv(kind: int, key: int, q: int, n: int) -> float:
    acc = splat(0.0, 16)
    for i in range(0, n, 16):
        acc = fma(to_f32(load(key + Q8_KV_HEADER + i, I8, 16)), load(q + 4 * i, F32, 16), acc)
    return sum_lanes(acc) * get(key, F32)


def _dot_blocks(t: int, form: Form) -> Callable[..., float]:
    size, offset, has_minima = form.type.nbytes, form.offset, form.has_minima

    def impl(kind: int, key: int, q: int, n: int) -> float:
        acc = splat(0.0, 16)
        for b in range(n // 32):
            block = key + size * b
            x, y = load(q + 128 * b, F32, 16), load(q + 128 * b + 64, F32, 16)
            codes, s = codes32(t, block, 0), scale(t, block)
            both = fma(_half(codes, offset, 1), y, mul(_half(codes, offset, 0), x))
            acc = fma(splat(s, 16), both, acc)
            if has_minima:
                acc = fma(splat(-minimum(t, block, s), 16), add(x, y), acc)
        return sum_lanes(acc)

    return impl


@helper
def _half(codes: Any, offset: int, half: int) -> Any:
    """16 of the 32 codes of a block, less the offset, which is taken off in bytes."""
    return to_f32(half_lanes(add_i32(codes, splat_i8(-offset, 32)), half))


@by_literal(add_scaled)
def _(t: int) -> Callable[..., None]:
    if t == Q8_KV:
        return _add_q8_kv
    if t in FORMS:
        return _add_blocks(t, FORMS[t])
    return _add_float(t, 4 if t == F32 else 2)


def _add_float(t: int, size: int) -> Callable[..., None]:
    @for_lanes(16)
    def add_block(i: int, block: Any, value: int, weight: Any, y: int) -> None:
        v = load_lanes(value + size * i, t, block)
        store_lanes(y + 4 * i, fma(weight, v, load_lanes(y + 4 * i, F32, block)), F32, block)

    def impl(kind: int, value: int, p: float, y: int, n: int) -> None:
        add_block(n, value, splat(p, 16), y)

    return impl


def _add_q8_kv(kind: int, value: int, p: float, y: int, n: int) -> None:
    weight = splat(p * get(value, F32), 16)
    for i in range(0, n, 16):
        codes = to_f32(load(value + Q8_KV_HEADER + i, I8, 16))
        store(y + 4 * i, fma(weight, codes, load(y + 4 * i, F32, 16)), F32)


def _add_blocks(t: int, form: Form) -> Callable[..., None]:
    size, offset, has_minima = form.type.nbytes, form.offset, form.has_minima

    def impl(kind: int, value: int, p: float, y: int, n: int) -> None:
        for b in range(n // 32):
            block, at = value + size * b, y + 128 * b
            codes, s = codes32(t, block, 0), scale(t, block)
            low, high = load(at, F32, 16), load(at + 64, F32, 16)
            if has_minima:
                less = splat(-p * minimum(t, block, s), 16)
                low, high = add(low, less), add(high, less)
            weight = splat(p * s, 16)
            store(at, fma(weight, _half(codes, offset, 0), low), F32)
            store(at + 64, fma(weight, _half(codes, offset, 1), high), F32)

    return impl
