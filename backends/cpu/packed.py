"""Activations of many tokens as 8-bit codes in tiles of 8 rows, 4 bytes of each in turn: what panels meet.

Per tile and block of 32: codes [8 fours][8 rows][4], scales [8 rows], and per group of weights [8 rows] of what takes
off the offset (int32: -offset · Σ q) or the minima (float32: -scale · Σ q).
"""

from collections.abc import Callable
from typing import Any

from graphsched import dtypes
from graphsched.backends.cpu.forms import FORMS, Form
from graphsched.backends.cpu.jit import helper, kernel
from graphsched.backends.cpu.lowering import Low, row_address, rows_of
from graphsched.backends.cpu.quants import q8_block
from graphsched.backends.cpu.simd import (
    add_i32,
    get,
    load,
    mul,
    mul_i32,
    put,
    splat,
    splat_i32,
    store,
    sub,
    to_f32,
)
from graphsched.backends.cpu.simd_int import concat
from graphsched.backends.cpu.steps import arg, rows, share
from graphsched.backends.cpu.turn import turn8
from graphsched.backends.cpu.vector import F32, I8, I32
from graphsched.dtypes import DType
from graphsched.operand import Operand, Out
from graphsched.tensor import Tensor, TensorType, i32

TILE = 8


PART = 16  # blocks of a tile that a thread packs at a time


@helper
def pack_row(src: int, blocks: int, q: int, d: int, lane: int) -> None:
    """Blocks of float32 -> row `lane` of as many blocks of a tile, whose codes stay together until `finish`."""
    for b in range(blocks):
        scale, low, high = q8_block(src + 128 * b)
        put(d + 4 * (TILE * b + lane), scale, F32)
        store(q + 32 * (TILE * b + lane), concat(low, high), I8)


@helper
def finish(blocks: int, q: int, d: int, shift: int, group: int, offset: int) -> None:
    """Turns the codes of a tile and adds its shifts. An offset of 0 stands for minima."""
    for b in range(blocks):
        first, last = turn8(q + 256 * b)
        dx = load(d + 32 * b, F32, TILE)
        if group == 16:
            put_shift(shift + 64 * b, dx, first, offset)
            put_shift(shift + 64 * b + 32, dx, last, offset)
        else:
            put_shift(shift + 32 * b, dx, add_i32(first, last), offset)


@helper
def put_shift(at: int, scale: Any, total: Any, offset: int) -> None:
    if offset:
        store(at, mul_i32(total, splat_i32(-offset, TILE)), I32)
    else:
        store(at, mul(scale, sub(splat(0.0, TILE), to_f32(total))), F32)


@kernel
def pack_q8(group: int, offset: int) -> Callable[..., None]:
    """Tokens in order; of [T, H, k] the tiles of one head after those of another."""

    def pack(step: int, run: int, ith: int, nth: int) -> None:
        x, q, d, shift, k = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3), arg(step, 4)
        heads, token_stride, head_stride = arg(step, 5), arg(step, 6), arg(step, 7)
        n_tokens, blocks = rows(step, run), k // 32
        tiles, parts = (n_tokens + TILE - 1) // TILE, (blocks + PART - 1) // PART
        first, last = share(heads * tiles * parts, ith, nth)
        for unit in range(first, last):
            tile, b = unit // parts, unit % parts * PART
            h, t, n = tile // tiles, tile % tiles * TILE, min(blocks - b, PART)
            at, src = TILE * (tile * blocks + b), x + h * head_stride + 128 * b
            for lane in range(min(n_tokens - t, TILE)):
                pack_row(src + (t + lane) * token_stride, n, q + 32 * at, d + 4 * at, lane)
            finish(n, q + 32 * at, d + 4 * at, shift + 128 // group * at, group, offset)

    return pack


@kernel
def pack_q8_sorted(group: int, offset: int) -> Callable[..., None]:
    """Rows of pairs (token, choice) in the order of their experts, each of which begins a tile; see `experts`."""

    def pack(step: int, run: int, ith: int, nth: int) -> None:
        x, q, d, shift, order, starts = (
            arg(step, 0),
            arg(step, 1),
            arg(step, 2),
            arg(step, 3),
            arg(step, 4),
            arg(step, 5),
        )
        k, n_expert, per_x = arg(step, 6), arg(step, 7), arg(step, 8)
        heads, token_stride, head_stride = arg(step, 9), arg(step, 10), arg(step, 11)
        tiles, blocks = starts + 4 * (n_expert + 2), k // 32
        first, last = share(get(tiles + 4 * n_expert, I32), ith, nth)
        e = 0
        for tile in range(first, last):
            while get(tiles + 4 * (e + 1), I32) <= tile:
                e += 1
            i, at = get(starts + 4 * e, I32) + TILE * (tile - get(tiles + 4 * e, I32)), TILE * tile * blocks
            for lane in range(min(get(starts + 4 * (e + 1), I32) - i, TILE)):
                px = get(order + 4 * (i + lane), I32) // per_x
                src = x + px // heads * token_stride + px % heads * head_stride
                pack_row(src, blocks, q + 32 * at, d + 4 * at, lane)
            finish(blocks, q + 32 * at, d + 4 * at, shift + 128 // group * at, group, offset)

    return pack


def packed(low: Low, x: Tensor, w: DType) -> tuple[Operand, ...]:
    """(codes, scales, shifts) of x [T, (H,) k] as products with panels of w read them."""
    form, operand = FORMS[w.id], low.operand(x)
    heads = int(x.shape[1]) if len(x.shape) == 3 else 1

    def make() -> tuple[Operand, ...]:
        q, d, shift = scratch(low, form, heads * (-(-int(x.shape[0]) // TILE)), x.shape[-1])
        args = (operand, Out(q), Out(d), Out(shift), x.shape[-1], *row_address(operand))
        low.step(pack_q8(form.group, form.offset), *args, rows=rows_of(x.type, inner=len(x.shape) - 1))
        return q, d, shift

    return low.shared(("q8 tiles", x, form.group, form.offset), make)


def packed_by_expert(
    low: Low, x: Tensor, w: TensorType, ids: Tensor, by_expert: tuple[Operand, ...]
) -> tuple[Operand, ...]:
    """(codes, scales, shifts) of x's rows by expert; every expert's last tile may be part full."""
    form, operand = FORMS[w.dtype.id], low.operand(x)
    n_expert, k, pairs = w.shape[0], x.shape[-1], ids.type.numel

    def make() -> tuple[Operand, ...]:
        q, d, shift = scratch(low, form, (pairs + (TILE - 1) * min(n_expert, pairs)) // TILE, k)
        sizes = (k, n_expert, ids.shape[1] // x.shape[1], *row_address(operand))
        kernel = pack_q8_sorted(form.group, form.offset)
        low.step(kernel, operand, Out(q), Out(d), Out(shift), *by_expert, *sizes)
        return q, d, shift

    return low.shared(("q8 tiles by expert", x, ids, n_expert, form.group, form.offset), make)


def scratch(low: Low, form: Form, tiles: int, k: int) -> tuple[Operand, ...]:
    codes = TensorType(dtypes.I8, (tiles, TILE * k))
    scales, shifts = (i32(tiles, TILE * k // n) for n in (32, form.group))
    names = ("q8 tiles", "q8 scales", "q8 shifts")
    return tuple(low.scratch(n, t) for n, t in zip(names, (codes, scales, shifts), strict=True))


def weight_panels(low: Low, nbytes: int) -> Operand:
    """Room for so many bytes of panels in each thread."""
    return low.scratch("weight panels", TensorType(dtypes.I8, (low.n_threads, nbytes)))
