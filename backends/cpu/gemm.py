"""GEMM for prompts: register tiles over float rows, or over panels of 16 decoded rows."""

from collections.abc import Callable

from graphsched.backends.cpu.jit import helper, kernel
from graphsched.backends.cpu.layout import ABORT
from graphsched.backends.cpu.quants import BLOCK_BYTES, OFFSET, codes32
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
from graphsched.backends.cpu.tile import dots_16
from graphsched.backends.cpu.vector import F16, F32, I8, I32

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


def panel_bytes(k: int) -> int:
    """Scratch per thread: 16 rows of codes and their scales, to a cache line."""
    return PANEL * k + PANEL * 4 * (k // 32) + 64


@kernel
def gemm_block32(kind: int) -> Callable[..., None]:
    """y[t, h, n] = w[h, n] · x[t, h] on int8: 16 rows are decoded to [block][4 codes of each row], for all tokens.

    Integer sums are exact: the accumulator starts at -offset · Σ q, so that codes may stay unsigned.
    """
    size, offset = BLOCK_BYTES[kind], OFFSET[kind]

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
        n_tokens, blocks = rows(step, run), k // 32
        scales, units = codes + PANEL * k, (n + PANEL - 1) // PANEL
        x_row, d_row, y_row = heads * k, heads * 4 * blocks, heads * 4 * n
        first, last = share(heads * units, ith, nth)
        for both in range(first, last):
            if word(run, ABORT):
                break
            h, unit = both // units, both % units
            w, x, y = w_all + h * n * w_row, x_all + h * k, y_all + h * 4 * n
            d, isum = d_all + h * 4 * blocks, isum_all + h * 4 * blocks
            for r in range(PANEL):
                row = w + lesser(unit * PANEL + r, n - 1) * w_row
                for b in range(blocks):
                    scatter4(codes + 512 * b + 4 * r, codes32(kind, row + size * b), 64)
                    put(scales + 64 * b + 4 * r, get(row + size * b, F16), F32)
            for t in range(0, n_tokens, 4):
                t1, t2, t3 = (
                    lesser(t + 1, n_tokens - 1),
                    lesser(t + 2, n_tokens - 1),
                    lesser(t + 3, n_tokens - 1),
                )
                f0 = f1 = f2 = f3 = splat(0.0, 16)
                for b in range(blocks):
                    i0 = splat_i32(-offset * get(isum + t * d_row + 4 * b, I32), 16)
                    i1 = splat_i32(-offset * get(isum + t1 * d_row + 4 * b, I32), 16)
                    i2 = splat_i32(-offset * get(isum + t2 * d_row + 4 * b, I32), 16)
                    i3 = splat_i32(-offset * get(isum + t3 * d_row + 4 * b, I32), 16)
                    for g in range(8):
                        u = load(codes + 512 * b + 64 * g, I8, 64)
                        at = 32 * b + 4 * g
                        i0 = dot_u8_i8(i0, u, broadcast4(x + t * x_row + at))
                        i1 = dot_u8_i8(i1, u, broadcast4(x + t1 * x_row + at))
                        i2 = dot_u8_i8(i2, u, broadcast4(x + t2 * x_row + at))
                        i3 = dot_u8_i8(i3, u, broadcast4(x + t3 * x_row + at))
                    s = load(scales + 64 * b, F32, 16)
                    f0 = fma(to_f32(i0), mul(s, splat(get(d + t * d_row + 4 * b, F32), 16)), f0)
                    f1 = fma(to_f32(i1), mul(s, splat(get(d + t1 * d_row + 4 * b, F32), 16)), f1)
                    f2 = fma(to_f32(i2), mul(s, splat(get(d + t2 * d_row + 4 * b, F32), 16)), f2)
                    f3 = fma(to_f32(i3), mul(s, splat(get(d + t3 * d_row + 4 * b, F32), 16)), f3)
                left, out = n - unit * PANEL, y + 4 * unit * PANEL
                store_first(out + t * y_row, f0, F32, left)
                if t + 1 < n_tokens:
                    store_first(out + t1 * y_row, f1, F32, left)
                if t + 2 < n_tokens:
                    store_first(out + t2 * y_row, f2, F32, left)
                if t + 3 < n_tokens:
                    store_first(out + t3 * y_row, f3, F32, left)

    return gemm
