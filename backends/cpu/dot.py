"""One row of weights times one row of activations, decoded in registers: what mat-vec is made of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.jit import by_literal, helper
from graphsched.backends.cpu.quants import BLOCK_BYTES, OFFSET, codes32, codes64
from graphsched.backends.cpu.simd import (
    add,
    fma,
    get,
    load,
    load_first,
    mul,
    splat,
    splat_i32,
    sum_lanes,
    to_f32,
)
from graphsched.backends.cpu.simd_int import concat, dot_u8_i8, gather_f16, halves, pair_lanes
from graphsched.backends.cpu.vector import F16, F32, I8, I32


def dot_row(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
    """Σ w[i] · x[i] over k weights of type `kind`. For kernels.

    Float types: x is float32. Block types: x is int8 with a float32 scale at d and an int32 sum at isum per 32.
    """
    raise NotImplementedError


@by_literal(dot_row)
def _(kind: int) -> Callable[..., float]:
    if kind in BLOCK_BYTES:
        return _block32(kind, BLOCK_BYTES[kind], OFFSET[kind])
    return _float(kind, 4 if kind == F32 else 2)


def _float(t: int, size: int) -> Callable[..., float]:
    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
        a, b, c, e = splat(0.0, 16), splat(0.0, 16), splat(0.0, 16), splat(0.0, 16)
        main, full = k // 64 * 64, k // 16 * 16
        for i in range(0, main, 64):  # four chains hide the latency of fma
            a = fma(load(w + size * i, t, 16), load(x + 4 * i, F32, 16), a)
            b = fma(load(w + size * (i + 16), t, 16), load(x + 4 * i + 64, F32, 16), b)
            c = fma(load(w + size * (i + 32), t, 16), load(x + 4 * i + 128, F32, 16), c)
            e = fma(load(w + size * (i + 48), t, 16), load(x + 4 * i + 192, F32, 16), e)
        for i in range(main, full, 16):
            a = fma(load(w + size * i, t, 16), load(x + 4 * i, F32, 16), a)
        if full < k:
            tail = load_first(w + size * full, t, 16, k - full)
            b = fma(tail, load_first(x + 4 * full, F32, 16, k - full), b)
        return sum_lanes(add(add(a, b), add(c, e)))

    return impl


@helper
def _scaled(codes: Any, x: int, scales: Any, acc: Any) -> Any:
    """acc + scales · (codes · x), per lane four products."""
    return fma(to_f32(dot_u8_i8(splat_i32(0, 16), codes, load(x, I8, 64))), scales, acc)


def _block32(t: int, size: int, offset: int) -> Callable[..., float]:
    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
        acc, other, shift = splat(0.0, 16), splat(0.0, 16), splat(0.0, 16)
        n_blocks = k // 32
        groups = n_blocks // 16
        for g in range(groups):  # 16 blocks: their scales fill one vector
            block, q = w + g * 16 * size, x + g * 512
            s = mul(gather_f16(block, size, 16), load(d + 64 * g, F32, 16))
            shift = fma(s, to_f32(load(isum + 64 * g, I32, 16)), shift)
            acc = _scaled(codes64(t, block), q, pair_lanes(s, 0), acc)
            other = _scaled(codes64(t, block + 2 * size), q + 64, pair_lanes(s, 1), other)
            acc = _scaled(codes64(t, block + 4 * size), q + 128, pair_lanes(s, 2), acc)
            other = _scaled(codes64(t, block + 6 * size), q + 192, pair_lanes(s, 3), other)
            acc = _scaled(codes64(t, block + 8 * size), q + 256, pair_lanes(s, 4), acc)
            other = _scaled(codes64(t, block + 10 * size), q + 320, pair_lanes(s, 5), other)
            acc = _scaled(codes64(t, block + 12 * size), q + 384, pair_lanes(s, 6), acc)
            other = _scaled(codes64(t, block + 14 * size), q + 448, pair_lanes(s, 7), other)
        rest, paired = np.float32(0.0), n_blocks // 2 * 2
        for b in range(groups * 16, paired, 2):
            block = w + b * size
            s0 = get(block, F16) * get(d + 4 * b, F32)
            s1 = get(block + size, F16) * get(d + 4 * b + 4, F32)
            rest += s0 * np.float32(get(isum + 4 * b, I32)) + s1 * np.float32(get(isum + 4 * b + 4, I32))
            acc = _scaled(codes64(t, block), x + 32 * b, halves(s0, s1), acc)
        if paired < n_blocks:
            block = w + paired * size
            s0 = get(block, F16) * get(d + 4 * paired, F32)
            rest += s0 * np.float32(get(isum + 4 * paired, I32))
            part = dot_u8_i8(splat_i32(0, 8), codes32(t, block), load(x + 32 * paired, I8, 32))
            acc = fma(concat(to_f32(part), splat(0.0, 8)), halves(s0, 0.0), acc)
        return sum_lanes(add(acc, other)) - offset * (sum_lanes(shift) + rest)

    return impl
