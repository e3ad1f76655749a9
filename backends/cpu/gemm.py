"""GEMM for prompts: register tiles over float rows, or over panels of 16 decoded rows."""

from collections.abc import Callable

from graphsched.backends.cpu.jit import helper, kernel
from graphsched.backends.cpu.layout import ABORT
from graphsched.backends.cpu.quants import BLOCK_BYTES, OFFSET, codes32
from graphsched.backends.cpu.simd import (
    fma,
    get,
    load,
    load_first,
    mul,
    put,
    splat,
    splat_i32,
    store_first,
    sum_lanes,
    to_f32,
    word,
)
from graphsched.backends.cpu.simd_int import broadcast4, dot_u8_i8, scatter4
from graphsched.backends.cpu.steps import arg, rows, share
from graphsched.backends.cpu.vector import F16, F32, I8, I32

PANEL = 16  # weight rows decoded together: one per lane
FLOAT_UNIT = 16  # weight rows whose bytes stay in cache while all tokens pass


@helper
def lesser(a: int, b: int) -> int:
    return a if a < b else b


@kernel
def gemm_float(kind: int) -> Callable[..., None]:
    """y[t, h, n] = w[h, n] · x[t, h], tiles of 4 rows × 4 tokens, each element one chain of 16 lanes along k."""
    size = 4 if kind == F32 else 2

    def gemm(step: int, run: int, ith: int, nth: int) -> None:
        w_all, x_all, y_all, n, k = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3), arg(step, 4)
        w_row, x_row, heads, x_head = arg(step, 5), arg(step, 6), arg(step, 7), arg(step, 8)
        n_tokens = rows(step, run)
        full, y_row, units = k // 16 * 16, 4 * heads * n, (n + FLOAT_UNIT - 1) // FLOAT_UNIT
        first, last = share(heads * units, ith, nth)
        for both in range(first, last):
            if word(run, ABORT):
                break
            h, unit = both // units, both % units
            w, x, y = w_all + h * n * w_row, x_all + h * x_head, y_all + h * n * 4
            end = lesser((unit + 1) * FLOAT_UNIT, n)
            for t in range(0, n_tokens, 4):
                x0 = x + t * x_row
                x1 = x + lesser(t + 1, n_tokens - 1) * x_row
                x2 = x + lesser(t + 2, n_tokens - 1) * x_row
                x3 = x + lesser(t + 3, n_tokens - 1) * x_row
                for r in range(unit * FLOAT_UNIT, end, 4):
                    w0 = w + r * w_row
                    w1 = w + lesser(r + 1, n - 1) * w_row
                    w2 = w + lesser(r + 2, n - 1) * w_row
                    w3 = w + lesser(r + 3, n - 1) * w_row
                    a00 = a01 = a02 = a03 = splat(0.0, 16)
                    a10 = a11 = a12 = a13 = splat(0.0, 16)
                    a20 = a21 = a22 = a23 = splat(0.0, 16)
                    a30 = a31 = a32 = a33 = splat(0.0, 16)
                    for i in range(0, full, 16):
                        u0, u1 = load(w0 + size * i, kind, 16), load(w1 + size * i, kind, 16)
                        u2, u3 = load(w2 + size * i, kind, 16), load(w3 + size * i, kind, 16)
                        v = load(x0 + 4 * i, F32, 16)
                        a00, a01, a02, a03 = (
                            fma(u0, v, a00),
                            fma(u1, v, a01),
                            fma(u2, v, a02),
                            fma(u3, v, a03),
                        )
                        v = load(x1 + 4 * i, F32, 16)
                        a10, a11, a12, a13 = (
                            fma(u0, v, a10),
                            fma(u1, v, a11),
                            fma(u2, v, a12),
                            fma(u3, v, a13),
                        )
                        v = load(x2 + 4 * i, F32, 16)
                        a20, a21, a22, a23 = (
                            fma(u0, v, a20),
                            fma(u1, v, a21),
                            fma(u2, v, a22),
                            fma(u3, v, a23),
                        )
                        v = load(x3 + 4 * i, F32, 16)
                        a30, a31, a32, a33 = (
                            fma(u0, v, a30),
                            fma(u1, v, a31),
                            fma(u2, v, a32),
                            fma(u3, v, a33),
                        )
                    if full < k:
                        left = k - full
                        u0, u1 = (
                            load_first(w0 + size * full, kind, 16, left),
                            load_first(w1 + size * full, kind, 16, left),
                        )
                        u2, u3 = (
                            load_first(w2 + size * full, kind, 16, left),
                            load_first(w3 + size * full, kind, 16, left),
                        )
                        v = load_first(x0 + 4 * full, F32, 16, left)
                        a00, a01, a02, a03 = (
                            fma(u0, v, a00),
                            fma(u1, v, a01),
                            fma(u2, v, a02),
                            fma(u3, v, a03),
                        )
                        v = load_first(x1 + 4 * full, F32, 16, left)
                        a10, a11, a12, a13 = (
                            fma(u0, v, a10),
                            fma(u1, v, a11),
                            fma(u2, v, a12),
                            fma(u3, v, a13),
                        )
                        v = load_first(x2 + 4 * full, F32, 16, left)
                        a20, a21, a22, a23 = (
                            fma(u0, v, a20),
                            fma(u1, v, a21),
                            fma(u2, v, a22),
                            fma(u3, v, a23),
                        )
                        v = load_first(x3 + 4 * full, F32, 16, left)
                        a30, a31, a32, a33 = (
                            fma(u0, v, a30),
                            fma(u1, v, a31),
                            fma(u2, v, a32),
                            fma(u3, v, a33),
                        )
                    store_tile_row(y + t * y_row + 4 * r, n - r, a00, a01, a02, a03)
                    if t + 1 < n_tokens:
                        store_tile_row(y + (t + 1) * y_row + 4 * r, n - r, a10, a11, a12, a13)
                    if t + 2 < n_tokens:
                        store_tile_row(y + (t + 2) * y_row + 4 * r, n - r, a20, a21, a22, a23)
                    if t + 3 < n_tokens:
                        store_tile_row(y + (t + 3) * y_row + 4 * r, n - r, a30, a31, a32, a33)

    return gemm


@helper
def store_tile_row(y, left, a, b, c, d):  # type: ignore[no-untyped-def]
    """The sums of four rows for one token, as many as are left."""
    put(y, sum_lanes(a), F32)
    if left > 1:
        put(y + 4, sum_lanes(b), F32)
    if left > 2:
        put(y + 8, sum_lanes(c), F32)
    if left > 3:
        put(y + 12, sum_lanes(d), F32)


def panel_bytes(k: int) -> int:
    """Scratch per thread: 16 rows of codes and their scales, to a cache line."""
    return PANEL * k + PANEL * 4 * (k // 32) + 64


@kernel
def gemm_block32(kind: int) -> Callable[..., None]:
    """y[t, h, n] = w[h, n] · x[t, h] on int8: 16 rows decoded to [block][4 codes of each row], 4 tokens at a time.

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
