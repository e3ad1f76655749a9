"""GEMM for prompts: register tiles over float rows, or over panels of 16 decoded rows."""

from collections.abc import Callable

import numpy as np

from graphsched.backends.cpu.blocks32 import minimum, scale
from graphsched.backends.cpu.forms import FORMS, Form, codes32, codes64, minima, scales
from graphsched.backends.cpu.jit import by_literal, helper, kernel
from graphsched.backends.cpu.layout import ABORT
from graphsched.backends.cpu.simd import (
    fma,
    get,
    load,
    mul,
    put,
    splat,
    splat_i32,
    store_first,
    store_quarter,
    to_f32,
    word,
)
from graphsched.backends.cpu.simd_int import broadcast4, dot_u8_i8, scatter4
from graphsched.backends.cpu.steps import arg, rows, share
from graphsched.backends.cpu.ternary import row_scale
from graphsched.backends.cpu.tile import dots_16
from graphsched.backends.cpu.vector import F32, I8, I32

PANEL = 16  # weight rows decoded together: one per lane
FLOAT_UNIT = 16  # weight rows whose bytes stay in cache while all tokens pass


@helper
def lesser(a: int, b: int) -> int:
    return a if a < b else b


@kernel
def gemm_float(kind: int) -> Callable[..., None]:
    """y[t, h, n] = w[h, n] · x[t, h], tiles of 4 tokens × 4 rows; a unit's rows stay in cache while all tokens pass."""

    def gemm(step: int, run: int, ith: int, nth: int) -> None:
        w_all, x_all, y_all, n, k = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3), arg(step, 4)
        w_row, x_row, heads, x_head = arg(step, 5), arg(step, 6), arg(step, 7), arg(step, 8)
        n_tokens = rows(step, run)
        y_row, units = 4 * heads * n, (n + FLOAT_UNIT - 1) // FLOAT_UNIT
        first, last = share(heads * units, ith, nth)
        for both in range(first, last):
            if word(run, ABORT):
                break
            h, unit = both // units, both % units
            w, x, y = w_all + h * n * w_row, x_all + h * x_head, y_all + h * n * 4
            end = lesser((unit + 1) * FLOAT_UNIT, n)
            for t in range(0, n_tokens, 4):
                for r in range(unit * FLOAT_UNIT, end, 4):
                    last_x, last_w = lesser(n_tokens - t, 4) - 1, lesser(n - r, 4) - 1
                    sums = dots_16(kind, x + t * x_row, x_row, w + r * w_row, w_row, last_x, last_w, k)
                    out = y + t * y_row + 4 * r
                    store_quarter(out, sums, 0, last_w + 1)
                    if last_x > 0:
                        store_quarter(out + y_row, sums, 1, last_w + 1)
                    if last_x > 1:
                        store_quarter(out + 2 * y_row, sums, 2, last_w + 1)
                    if last_x > 2:
                        store_quarter(out + 3 * y_row, sums, 3, last_w + 1)

    return gemm


def panel_bytes(kind: int, k: int) -> int:
    """Scratch per thread: 16 rows of codes, their scales and minima, to a cache line."""
    form = FORMS[kind]
    return PANEL * k + PANEL * 4 * (k // form.group) * (1 + form.has_minima) + 64


def decode_row(kind: int, row: int, k: int, codes: int, scale_at: int, minimum_at: int) -> None:
    """A row of weights into its lane of a panel: codes by fours, scales and minima one by one. For kernels."""


@by_literal(decode_row)
def _(kind: int) -> Callable[..., None]:
    form = FORMS[kind]
    return {32: _decode32, 64: _decode64, 256: _decode256}[form.type.block](form)


def _decode32(form: Form) -> Callable[..., None]:
    t, size, has_minima = form.type.id, form.type.nbytes, form.has_minima

    def impl(kind: int, row: int, k: int, codes: int, scale_at: int, minimum_at: int) -> None:
        for b in range(k // 32):
            block = row + size * b
            scatter4(codes + 512 * b, codes32(t, block, 0), 64)
            s = scale(t, block)
            put(scale_at + 64 * b, s, F32)
            if has_minima:
                put(minimum_at + 64 * b, minimum(t, block, s), F32)

    return impl


def _decode64(form: Form) -> Callable[..., None]:
    t, size, header = form.type.id, form.type.nbytes, form.type.row_header

    def impl(kind: int, row: int, k: int, codes: int, scale_at: int, minimum_at: int) -> None:
        s = row_scale(t, row)
        for b in range(k // 64):
            block = row + header + size * b
            scatter4(codes + 1024 * b, codes64(t, block, 0), 64)
            put(scale_at + 128 * b, s, F32)
            put(scale_at + 128 * b + 64, s, F32)

    return impl


def _decode256(form: Form) -> Callable[..., None]:
    t, size, has_minima, bytes = form.type.id, form.type.nbytes, form.has_minima, 64 * 256 // form.group

    def impl(kind: int, row: int, k: int, codes: int, scale_at: int, minimum_at: int) -> None:
        for b in range(k // 256):
            block = row + size * b
            for j in range(8):
                scatter4(codes + 512 * (8 * b + j), codes32(t, block, j), 64)
            s = scales(t, block)
            scatter4(scale_at + bytes * b, s, 64)
            if has_minima:
                scatter4(minimum_at + bytes * b, minima(t, block, s), 64)

    return impl


@kernel
def gemm_blocks(kind: int) -> Callable[..., None]:
    """y[t, h, n] = w[h, n] · x[t, h] on int8: 16 rows are decoded to [4 weights][4 codes of each row], for all tokens.

    Integer sums are exact: the accumulator starts at -offset · Σ q, so that codes may stay unsigned. Minima are
    subtracted in float32, a group at a time.
    """
    form = FORMS[kind]
    group, offset, has_minima = form.group, form.offset, form.has_minima
    fours, halved = group // 4, int(group == 16)

    def gemm(step: int, run: int, ith: int, nth: int) -> None:
        w_all, x_all, d_all, isum_all, y_all = (
            arg(step, 0),
            arg(step, 1),
            arg(step, 2),
            arg(step, 3),
            arg(step, 4),
        )
        n, k, w_row, heads = arg(step, 6), arg(step, 7), arg(step, 8), arg(step, 10)
        codes = arg(step, 5) + ith * arg(step, 9)
        n_tokens, blocks, groups = rows(step, run), k // 32, k // group
        scale_at, units = codes + PANEL * k, (n + PANEL - 1) // PANEL
        minimum_at = scale_at + PANEL * 4 * groups
        x_row, d_row, y_row = heads * k, heads * 4 * blocks, heads * 4 * n
        sum_row = 3 * d_row
        first, last = share(heads * units, ith, nth)
        for both in range(first, last):
            if word(run, ABORT):
                break
            h, unit = both // units, both % units
            w, x, y = w_all + h * n * w_row, x_all + h * k, y_all + h * 4 * n
            d, isum = d_all + h * 4 * blocks, isum_all + (3 * h + halved) * 4 * blocks
            for r in range(PANEL):
                row = w + lesser(unit * PANEL + r, n - 1) * w_row
                decode_row(kind, row, k, codes + 4 * r, scale_at + 4 * r, minimum_at + 4 * r)
            for t in range(0, n_tokens, 4):
                t1, t2, t3 = (
                    lesser(t + 1, n_tokens - 1),
                    lesser(t + 2, n_tokens - 1),
                    lesser(t + 3, n_tokens - 1),
                )
                f0 = f1 = f2 = f3 = splat(0.0, 16)
                for b in range(groups):
                    sum0, sum1 = get(isum + t * sum_row + 4 * b, I32), get(isum + t1 * sum_row + 4 * b, I32)
                    sum2, sum3 = get(isum + t2 * sum_row + 4 * b, I32), get(isum + t3 * sum_row + 4 * b, I32)
                    i0, i1 = splat_i32(-offset * sum0, 16), splat_i32(-offset * sum1, 16)
                    i2, i3 = splat_i32(-offset * sum2, 16), splat_i32(-offset * sum3, 16)
                    for g in range(fours):
                        at = group * b + 4 * g
                        u = load(codes + 16 * at, I8, 64)
                        i0 = dot_u8_i8(i0, u, broadcast4(x + t * x_row + at))
                        i1 = dot_u8_i8(i1, u, broadcast4(x + t1 * x_row + at))
                        i2 = dot_u8_i8(i2, u, broadcast4(x + t2 * x_row + at))
                        i3 = dot_u8_i8(i3, u, broadcast4(x + t3 * x_row + at))
                    s, of_x = load(scale_at + 64 * b, F32, 16), d + 4 * (b >> halved)
                    d0, d1 = get(of_x + t * d_row, F32), get(of_x + t1 * d_row, F32)
                    d2, d3 = get(of_x + t2 * d_row, F32), get(of_x + t3 * d_row, F32)
                    f0 = fma(to_f32(i0), mul(s, splat(d0, 16)), f0)
                    f1 = fma(to_f32(i1), mul(s, splat(d1, 16)), f1)
                    f2 = fma(to_f32(i2), mul(s, splat(d2, 16)), f2)
                    f3 = fma(to_f32(i3), mul(s, splat(d3, 16)), f3)
                    if has_minima:
                        m = load(minimum_at + 64 * b, F32, 16)
                        f0 = fma(m, splat(-d0 * np.float32(sum0), 16), f0)
                        f1 = fma(m, splat(-d1 * np.float32(sum1), 16), f1)
                        f2 = fma(m, splat(-d2 * np.float32(sum2), 16), f2)
                        f3 = fma(m, splat(-d3 * np.float32(sum3), 16), f3)
                left, out = n - unit * PANEL, y + 4 * unit * PANEL
                store_first(out + t * y_row, f0, F32, left)
                if t + 1 < n_tokens:
                    store_first(out + t1 * y_row, f1, F32, left)
                if t + 2 < n_tokens:
                    store_first(out + t2 * y_row, f2, F32, left)
                if t + 3 < n_tokens:
                    store_first(out + t3 * y_row, f3, F32, left)

    return gemm
