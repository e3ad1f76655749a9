"""One row of weights times one row of activations, decoded in registers: what mat-vec is made of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.formats.blocks32 import minimum, scale
from graphsched.backends.cpu.formats.forms import FORMS, Form, codes32, codes64, dot_codes, minima, scales
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.prefetch import ask_ahead
from graphsched.backends.cpu.language.simd import (
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
from graphsched.backends.cpu.language.simd_int import concat, halves, spread_lanes
from graphsched.backends.cpu.language.vector import F32, I8, I32
from graphsched.backends.cpu.matmul.matvec_ternary import ternary_row


def dot_row(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
    """Σ w[i] · x[i] over k weights of type `kind`. For kernels.

    Float types: x is float32. Block types: x is int8, with a float32 scale per 32 at d, and at isum the sums of 32
    as int32, then those of 16. Ternary types: see `ternary_row`.
    """
    raise NotImplementedError


def activation_words(kind: int, k: int) -> tuple[int, int]:
    """How many scales and how many sums a row of k activations has. For kernels."""
    raise NotImplementedError


@by_literal(activation_words)
def _(kind: int) -> Callable[..., tuple[int, int]]:
    form = FORMS.get(kind)
    if form is None or not form.ternary:
        return _words_of_blocks
    group = form.group

    def impl(kind: int, k: int) -> tuple[int, int]:
        return 1, k // group if group else 1

    return impl


def _words_of_blocks(kind: int, k: int) -> tuple[int, int]:
    return k // 32, 3 * (k // 32)


@by_literal(dot_row)
def _(kind: int) -> Callable[..., float]:
    form = FORMS.get(kind)
    if form is None:
        return _float(kind, 4 if kind == F32 else 2)
    if form.ternary:
        return ternary_row(form)
    return _block32(form) if form.type.block == 32 else _super(form)


def _float(t: int, size: int) -> Callable[..., float]:
    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
        a, b, c, e = splat(0.0, 16), splat(0.0, 16), splat(0.0, 16), splat(0.0, 16)
        main, full = k // 64 * 64, k // 16 * 16
        for i in range(0, main, 64):  # four chains hide the latency of fma
            ask_ahead(w + size * i, 64 * size)
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
def _scaled(kind: int, codes: Any, x: int, scales: Any, acc: Any) -> Any:
    """acc + scales · (codes · x), per lane four products."""
    return fma(to_f32(dot_codes(kind, splat_i32(0, 16), codes, load(x, I8, 64))), scales, acc)


def _block32(form: Form) -> Callable[..., float]:
    t, size, unit = form.type.id, form.type.nbytes, form.shift_unit

    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
        acc, other, shift = splat(0.0, 16), splat(0.0, 16), splat(0.0, 16)
        n_blocks = k // 32
        groups = n_blocks // 16
        for g in range(groups):  # 16 blocks: their scales fill one vector
            block, q = w + g * 16 * size, x + g * 512
            ask_ahead(block, 16 * size)
            s, dx = scales(t, block), load(d + 64 * g, F32, 16)
            shift = fma(mul(minima(t, block, s), dx), to_f32(load(isum + 64 * g, I32, 16)), shift)
            s = mul(s, dx)
            acc = _scaled(t, codes64(t, block, 0), q, spread_lanes(s, 0, 8, 16), acc)
            other = _scaled(t, codes64(t, block + 2 * size, 0), q + 64, spread_lanes(s, 2, 8, 16), other)
            acc = _scaled(t, codes64(t, block + 4 * size, 0), q + 128, spread_lanes(s, 4, 8, 16), acc)
            other = _scaled(t, codes64(t, block + 6 * size, 0), q + 192, spread_lanes(s, 6, 8, 16), other)
            acc = _scaled(t, codes64(t, block + 8 * size, 0), q + 256, spread_lanes(s, 8, 8, 16), acc)
            other = _scaled(t, codes64(t, block + 10 * size, 0), q + 320, spread_lanes(s, 10, 8, 16), other)
            acc = _scaled(t, codes64(t, block + 12 * size, 0), q + 384, spread_lanes(s, 12, 8, 16), acc)
            other = _scaled(t, codes64(t, block + 14 * size, 0), q + 448, spread_lanes(s, 14, 8, 16), other)
        rest, paired = np.float32(0.0), n_blocks // 2 * 2
        for b in range(groups * 16, paired, 2):
            block = w + b * size
            s0, s1 = scale(t, block), scale(t, block + size)
            d0, d1 = get(d + 4 * b, F32), get(d + 4 * b + 4, F32)
            m0, m1 = minimum(t, block, s0) * d0, minimum(t, block + size, s1) * d1
            rest += m0 * np.float32(get(isum + 4 * b, I32)) + m1 * np.float32(get(isum + 4 * b + 4, I32))
            acc = _scaled(t, codes64(t, block, 0), x + 32 * b, halves(s0 * d0, s1 * d1), acc)
        if paired < n_blocks:
            block = w + paired * size
            s0, d0 = scale(t, block), get(d + 4 * paired, F32)
            rest += minimum(t, block, s0) * d0 * np.float32(get(isum + 4 * paired, I32))
            sums32 = dot_codes(t, splat_i32(0, 8), codes32(t, block, 0), load(x + 32 * paired, I8, 32))
            acc = fma(concat(to_f32(sums32), splat(0.0, 8)), halves(s0 * d0, 0.0), acc)
        return sum_lanes(add(acc, other)) - unit * (sum_lanes(shift) + rest)

    return impl


def _super(form: Form) -> Callable[..., float]:
    t, size, unit, block = form.type.id, form.type.nbytes, form.shift_unit, form.type.block
    n, n_32, chunks = block // form.group, block // 32, block // 64
    per_32, times = 32 // form.group, form.group // 4  # lanes of dot_u8_i8 are 4 weights each
    second, third, fourth = (64 * j // form.group for j in (1, 2, 3))
    halved = int(form.group == 16)

    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> float:
        acc, other, shift = splat(0.0, 16), splat(0.0, 16), splat(0.0, n)
        sums = isum + halved * (k // 8)
        for b in range(k // block):
            here, q = w + b * size, x + block * b
            ask_ahead(here, size)
            s, dx = scales(t, here), spread_lanes(load(d + 4 * n_32 * b, F32, n_32), 0, per_32, n)
            shift = fma(mul(minima(t, here, s), dx), to_f32(load(sums + 4 * n * b, I32, n)), shift)
            s = mul(s, dx)
            acc = _scaled(t, codes64(t, here, 0), q, spread_lanes(s, 0, times, 16), acc)
            if chunks > 1:
                other = _scaled(t, codes64(t, here, 1), q + 64, spread_lanes(s, second, times, 16), other)
            if chunks > 2:
                acc = _scaled(t, codes64(t, here, 2), q + 128, spread_lanes(s, third, times, 16), acc)
                other = _scaled(t, codes64(t, here, 3), q + 192, spread_lanes(s, fourth, times, 16), other)
        return sum_lanes(add(acc, other)) - unit * sum_lanes(shift)

    return impl
