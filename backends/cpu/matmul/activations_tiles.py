"""Activations of many tokens as 8-bit codes in tiles of 8 rows, 4 bytes of each after another: what panels meet.

Per tile and block of 32: codes [8 fours][8 rows][4], scales [8 rows], and per group of weights [8 rows] of what takes
off the offset (int32: -offset · Σ q) or the minima (float32: -scale · Σ q). For ternary types a tile has 8 scales.
"""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.forms import FORMS, Form
from graphsched.backends.cpu.formats.int8 import q8_block, q8_codes64, q8_row
from graphsched.backends.cpu.language.jit import by_literal, helper, kernel
from graphsched.backends.cpu.language.simd import (
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
from graphsched.backends.cpu.language.simd_int import concat, half_lanes
from graphsched.backends.cpu.language.transpose import transpose8
from graphsched.backends.cpu.language.vector import F32, I8, I32
from graphsched.backends.cpu.program.kernel_args import arguments, row_at, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph.tensor import Tensor, TensorType, i32
from graphsched.run.operand import Operand
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

TILE = 8


PIECE = 16  # blocks of a tile that a thread packs at a time


def pack_row(ternary: int, src: int, blocks: int, q: int, d: int, lane: int) -> None:
    """Blocks of float32 -> row `lane` of as many blocks of a tile, whose codes stay together until `finish`."""


def finish(ternary: int, blocks: int, q: int, d: int, shift: int, group: int, offset: int) -> None:
    """Transposes the codes of a tile and adds its shifts. An offset of 0 stands for minima."""


def tile_row(kind: int, k: int) -> tuple[int, int]:
    """Bytes of scales and of shifts that a row of k activations has, beside weights of a type. For kernels."""
    raise NotImplementedError


@by_literal(pack_row)
def _(ternary: int) -> Callable[..., None]:
    return _pack_whole if ternary else _pack_blocks


@by_literal(finish)
def _(ternary: int) -> Callable[..., None]:
    return _finish_whole if ternary else _finish_blocks


@by_literal(tile_row)
def _(t: int) -> Callable[..., tuple[int, int]]:
    group, ternary = FORMS[t].group, FORMS[t].ternary is not None

    def impl(kind: int, k: int) -> tuple[int, int]:
        return 4 if ternary else k // 8, 4 * (k // group) if group else 4

    return impl


def _pack_blocks(ternary: int, src: int, blocks: int, q: int, d: int, lane: int) -> None:
    for b in range(blocks):
        scale, low, high = q8_block(src + 128 * b)
        put(d + 4 * (TILE * b + lane), scale, F32)
        store(q + 32 * (TILE * b + lane), concat(low, high), I8)


def _pack_whole(ternary: int, src: int, blocks: int, q: int, d: int, lane: int) -> None:
    scale, inverse = q8_row(src, 32 * blocks)
    put(d + 4 * lane, scale, F32)
    for b in range(0, blocks, 2):
        codes, at = q8_codes64(src + 128 * b, inverse), q + 32 * (TILE * b + lane)
        store(at, half_lanes(codes, 0), I8)
        store(at + 32 * TILE, half_lanes(codes, 1), I8)


def _finish_whole(ternary: int, blocks: int, q: int, d: int, shift: int, group: int, offset: int) -> None:
    per, total = group // 32 if group else blocks, splat_i32(0, TILE)
    for b in range(blocks):
        first, last = transpose8(q + 256 * b)
        total = add_i32(total, add_i32(first, last))
        if (b + 1) % per == 0:
            store(shift + 4 * TILE * (b // per), mul_i32(total, splat_i32(-offset, TILE)), I32)
            total = splat_i32(0, TILE)


def _finish_blocks(ternary: int, blocks: int, q: int, d: int, shift: int, group: int, offset: int) -> None:
    for b in range(blocks):
        first, last = transpose8(q + 256 * b)
        dx = load(d + 32 * b, F32, TILE)
        if group == 16:
            put_shift(shift + 64 * b, dx, first, offset)
            put_shift(shift + 64 * b + 32, dx, last, offset)
        else:
            put_shift(shift + 32 * b, dx, add_i32(first, last), offset)


@helper
def put_shift(at: int, scale: Any, total: Any, offset: int) -> None:
    """Stores what takes off the offset, or the minima if it is 0, of a group with these sums in 8 rows."""
    if offset:
        store(at, mul_i32(total, splat_i32(-offset, TILE)), I32)
    else:
        store(at, mul(scale, sub(splat(0.0, TILE), to_f32(total))), F32)


@kernel("x -> q d shift | k heads x_token x_head")
def pack_q8(ternary: int, group: int, offset: int) -> Callable[..., None]:
    """Tokens in order; of [T, H, k] the tiles of one head after those of another."""

    def pack(step: int, run: int, ith: int, nth: int) -> None:
        x, q, d, shift, k, heads, x_token, x_head = arguments(step)
        n_tokens, blocks = rows(step, run), k // 32
        piece = blocks if ternary else PIECE  # a row that has one scale stays whole
        tiles, pieces = (n_tokens + TILE - 1) // TILE, (blocks + piece - 1) // piece
        first, last = share(heads * tiles * pieces, ith, nth)
        for unit in range(first, last):
            tile, b = unit // pieces, unit % pieces * piece
            h, t, n = tile // tiles, tile % tiles * TILE, min(blocks - b, piece)
            src, codes = x + h * x_head + 128 * b, q + 32 * TILE * (tile * blocks + b)
            scales, shifts = places(ternary, group, d, shift, k, tile, b)
            for lane in range(min(n_tokens - t, TILE)):
                pack_row(ternary, src + (t + lane) * x_token, n, codes, scales, lane)
            finish(ternary, n, codes, scales, shifts, group, offset)

    return pack


@helper
def places(ternary: int, group: int, d: int, shift: int, k: int, tile: int, b: int) -> tuple[int, int]:
    """Where the scales and shifts of a tile begin, from its b-th block on."""
    if ternary:
        return d + 4 * TILE * tile, shift + 4 * TILE * tile * (k // group if group else 1)
    at = TILE * (tile * (k // 32) + b)
    return d + 4 * at, shift + 128 // group * at


@kernel("x order starts -> q d shift | k n_expert per_x heads x_token x_head")
def pack_q8_sorted(ternary: int, group: int, offset: int) -> Callable[..., None]:
    """Rows of pairs (token, choice) in the order of their experts, each of which begins a tile; see `experts`."""

    def pack(step: int, run: int, ith: int, nth: int) -> None:
        x, order, starts, q, d, shift, k, n_expert, per_x, heads, x_token, x_head = arguments(step)
        tiles, blocks = starts + 4 * (n_expert + 2), k // 32
        first, last = share(get(tiles + 4 * n_expert, I32), ith, nth)
        e = 0
        for tile in range(first, last):
            while get(tiles + 4 * (e + 1), I32) <= tile:
                e += 1
            i, codes = get(starts + 4 * e, I32) + TILE * (tile - get(tiles + 4 * e, I32)), q + TILE * tile * k
            scales, shifts = places(ternary, group, d, shift, k, tile, 0)
            for lane in range(min(get(starts + 4 * (e + 1), I32) - i, TILE)):
                px = get(order + 4 * (i + lane), I32) // per_x
                src = row_at(x, px, heads, x_token, x_head)
                pack_row(ternary, src, blocks, codes, scales, lane)
            finish(ternary, blocks, codes, scales, shifts, group, offset)

    return pack


def packed(low: Low, x: Tensor, w: DType) -> tuple[Operand, ...]:
    """(codes, scales, shifts) of x [T, (H,) k] as products with panels of w read them."""
    form, operand = FORMS[w.id], low.operand(x)
    heads = int(x.shape[1]) if len(x.shape) == 3 else 1

    def make() -> tuple[Operand, ...]:
        q, d, shift = scratch(low, form, heads * (-(-int(x.shape[0]) // TILE)), x.shape[-1])
        sizes, rows = {"k": x.shape[-1], **row_strides(x=operand)}, rows_of(x.type, inner=len(x.shape) - 1)
        low.step(pack_q8(*layout(form)), x=operand, q=q, d=d, shift=shift, **sizes, rows=rows)
        return q, d, shift

    return low.shared(("q8 tiles", x, *layout(form)), make)


def packed_by_expert(
    low: Low, x: Tensor, w: TensorType, ids: Tensor, by_expert: tuple[Operand, ...]
) -> tuple[Operand, ...]:
    """(codes, scales, shifts) of x's rows by expert; every expert's last tile may be partly filled."""
    form, operand = FORMS[w.dtype.id], low.operand(x)
    n_expert, k, pairs = w.shape[0], x.shape[-1], ids.type.numel

    def make() -> tuple[Operand, ...]:
        q, d, shift = scratch(low, form, (pairs + (TILE - 1) * min(n_expert, pairs)) // TILE, k)
        sizes = {"k": k, "n_expert": n_expert, "per_x": ids.shape[1] // x.shape[1], **row_strides(x=operand)}
        order, starts = by_expert
        kernel = pack_q8_sorted(*layout(form))
        low.step(kernel, x=operand, order=order, starts=starts, q=q, d=d, shift=shift, **sizes)
        return q, d, shift

    return low.shared(("q8 tiles by expert", x, ids, n_expert, *layout(form)), make)


def layout(form: Form) -> tuple[int, int, int]:
    """What tiles of activations depend on."""
    return int(form.ternary is not None), form.group, form.offset


def scratch(low: Low, form: Form, tiles: int, k: int) -> tuple[Operand, ...]:
    """(codes, scales, shifts) of so many tiles of rows of k activations."""
    codes = TensorType(dtypes.I8, (tiles, TILE * k))
    scales, shifts = (i32(tiles, TILE * n) for n in (1 if form.ternary else k // 32, form.groups(k)))
    names = ("q8 tiles", "q8 scales", "q8 shifts")
    return tuple(low.scratch(n, t) for n, t in zip(names, (codes, scales, shifts), strict=True))


def weight_panels(low: Low, nbytes: int) -> Operand:
    """Room for so many bytes of panels in each thread."""
    return low.scratch("weight panels", TensorType(dtypes.I8, (low.n_threads, nbytes)))
