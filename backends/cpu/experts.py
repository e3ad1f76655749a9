"""Products by expert for prompts: pairs (token, choice) sorted by expert, then one pass over each expert's weights.

Three steps: `by_expert` sorts, `pack_q8` lays the activations of each expert out in tiles of 8 pairs, and
`experts_block32` (or `experts_float`, which needs no packing) multiplies panels of 16 weight rows with them. Threads
take (expert, panel) units from a counter, because experts have unequal work; every unit writes its own part of y, so
that bits do not depend on who took it.
"""

from collections.abc import Callable
from typing import Any

from graphsched import dtypes
from graphsched.backends.cpu.atomics import fetch_add, store_word
from graphsched.backends.cpu.forms import FORMS
from graphsched.backends.cpu.gemm import PANEL, lesser, panel_bytes
from graphsched.backends.cpu.jit import helper, kernel
from graphsched.backends.cpu.layout import ABORT
from graphsched.backends.cpu.lowering import Low, row_address, rows_of
from graphsched.backends.cpu.panel import decode_panel, prefetch
from graphsched.backends.cpu.quants import FLOAT_TYPES, q8_block
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
    sum_lanes,
    to_f32,
    word,
)
from graphsched.backends.cpu.simd_int import broadcast4, concat, dot_u8_i8, scatter4
from graphsched.backends.cpu.steps import arg, rows, share
from graphsched.backends.cpu.tile import dots_16_at
from graphsched.backends.cpu.vector import F32, I8, I32
from graphsched.operand import Operand, Out
from graphsched.tensor import Tensor, TensorType, i32

TILE = 8  # pairs whose activations lie together, 4 bytes of each in turn


@kernel
def by_expert() -> Callable[..., None]:
    """Sorts pairs by expert, in order within one; ids outside the range come last.

    starts[e] is the place of e's first pair in `order`, tiles[e] the number of tiles before e.
    """

    def sort(step: int, run: int, ith: int, nth: int) -> None:
        ids, order, starts, n_expert = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        tiles = starts + 4 * (n_expert + 2)
        cursor, n = tiles + 4 * (n_expert + 1), rows(step, run)
        if ith > 0:  # some thousand pairs: less than handing them out would cost
            return
        for e in range(n_expert + 2):
            put(starts + 4 * e, 0, I32)
        for p in range(n):
            e = expert_of(ids, p, n_expert)
            put(starts + 4 * (e + 1), get(starts + 4 * (e + 1), I32) + 1, I32)
        place = tile = 0
        for e in range(n_expert + 1):
            put(cursor + 4 * e, place, I32)
            put(tiles + 4 * e, tile, I32)
            count = get(starts + 4 * (e + 1), I32)
            place, tile = place + count, tile + (count + TILE - 1) // TILE
            put(starts + 4 * (e + 1), place, I32)
        for p in range(n):
            e = expert_of(ids, p, n_expert)
            at = get(cursor + 4 * e, I32)
            put(order + 4 * at, p, I32)
            put(cursor + 4 * e, at + 1, I32)

    return sort


@helper
def expert_of(ids: int, p: int, n_expert: int) -> int:
    """The expert of a pair, or n_expert for none."""
    e = get(ids + 4 * p, I32)
    return e if 0 <= e < n_expert else n_expert


@kernel
def pack_q8(offset: int) -> Callable[..., None]:
    """Activations to int8 in tiles: codes [tile][block][4 codes of each pair, 8 times], scales, -offset · Σ codes."""

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
        first, last = share(get(starts + 4 * n_expert, I32), ith, nth)
        e = 0
        for i in range(first, last):
            while get(starts + 4 * (e + 1), I32) <= i:
                e += 1
            j = i - get(starts + 4 * e, I32)
            at = (get(tiles + 4 * e, I32) + j // TILE) * blocks
            lane = 4 * (j % TILE)
            px = get(order + 4 * i, I32) // per_x
            src = x + px // heads * token_stride + px % heads * head_stride
            for b in range(blocks):
                scale, low, high = q8_block(src + 128 * b)
                here = 4 * TILE * (at + b) + lane
                put(d + here, scale, F32)
                put(shift + here, -offset * (sum_lanes(low) + sum_lanes(high)), I32)
                scatter4(q + 32 * TILE * (at + b) + lane, concat(low, high), 4 * TILE)

    return pack


@kernel
def reset() -> Callable[..., None]:
    """Sets a counter of units to 0."""

    def first(step: int, run: int, ith: int, nth: int) -> None:
        if ith == 0:
            store_word(arg(step, 0), 0)

    return first


@helper
def dot4(u: Any, x: int, i0: Any, i1: Any, i2: Any, i3: Any) -> Any:
    """Adds the products of one vector of codes with 4 codes of each of four pairs."""
    return (
        dot_u8_i8(i0, u, broadcast4(x)),
        dot_u8_i8(i1, u, broadcast4(x + 4)),
        dot_u8_i8(i2, u, broadcast4(x + 8)),
        dot_u8_i8(i3, u, broadcast4(x + 12)),
    )


@helper
def start4(shift: int) -> Any:
    return (
        splat_i32(get(shift, I32), 16),
        splat_i32(get(shift + 4, I32), 16),
        splat_i32(get(shift + 8, I32), 16),
        splat_i32(get(shift + 12, I32), 16),
    )


@helper
def scale4(s: Any, d: int, i0: Any, i1: Any, i2: Any, i3: Any, f0: Any, f1: Any, f2: Any, f3: Any) -> Any:
    return (
        fma(to_f32(i0), mul(s, splat(get(d, F32), 16)), f0),
        fma(to_f32(i1), mul(s, splat(get(d + 4, F32), 16)), f1),
        fma(to_f32(i2), mul(s, splat(get(d + 8, F32), 16)), f2),
        fma(to_f32(i3), mul(s, splat(get(d + 12, F32), 16)), f3),
    )


@helper
def put4(y: int, y_row: int, order: int, count: int, left: int, f0: Any, f1: Any, f2: Any, f3: Any) -> None:
    """Stores at most four results where their pairs are."""
    if count > 0:
        store_first(y + get(order, I32) * y_row, f0, F32, left)
    if count > 1:
        store_first(y + get(order + 4, I32) * y_row, f1, F32, left)
    if count > 2:
        store_first(y + get(order + 8, I32) * y_row, f2, F32, left)
    if count > 3:
        store_first(y + get(order + 12, I32) * y_row, f3, F32, left)


@helper
def tile_block32(
    codes: int,
    scales: int,
    q: int,
    d: int,
    shift: int,
    blocks: int,
    y: int,
    y_row: int,
    order: int,
    count: int,
    left: int,
    ahead: int,
    lines: int,
) -> None:
    """A panel times a tile of up to 8 pairs; half a tile where 4 are enough.

    Meanwhile `lines` cache lines per block arrive from `ahead`.
    """
    f0 = f1 = f2 = f3 = f4 = f5 = f6 = f7 = splat(0.0, 16)
    if count > 4:
        for b in range(blocks):
            for j in range(lines):
                prefetch(ahead + 64 * (b * lines + j))
            i0, i1, i2, i3 = start4(shift + 32 * b)
            i4, i5, i6, i7 = start4(shift + 32 * b + 16)
            for g in range(8):
                u, x = load(codes + 512 * b + 64 * g, I8, 64), q + 256 * b + 32 * g
                i0, i1, i2, i3 = dot4(u, x, i0, i1, i2, i3)
                i4, i5, i6, i7 = dot4(u, x + 16, i4, i5, i6, i7)
            s = load(scales + 64 * b, F32, 16)
            f0, f1, f2, f3 = scale4(s, d + 32 * b, i0, i1, i2, i3, f0, f1, f2, f3)
            f4, f5, f6, f7 = scale4(s, d + 32 * b + 16, i4, i5, i6, i7, f4, f5, f6, f7)
        put4(y, y_row, order + 16, count - 4, left, f4, f5, f6, f7)
    else:
        for b in range(blocks):
            for j in range(lines):
                prefetch(ahead + 64 * (b * lines + j))
            i0, i1, i2, i3 = start4(shift + 32 * b)
            for g in range(8):
                u, x = load(codes + 512 * b + 64 * g, I8, 64), q + 256 * b + 32 * g
                i0, i1, i2, i3 = dot4(u, x, i0, i1, i2, i3)
            s = load(scales + 64 * b, F32, 16)
            f0, f1, f2, f3 = scale4(s, d + 32 * b, i0, i1, i2, i3, f0, f1, f2, f3)
    put4(y, y_row, order, count, left, f0, f1, f2, f3)


@kernel
def experts_block32(kind: int) -> Callable[..., None]:
    """y[p] = w[expert of p] · x[p] on int8."""

    def experts(step: int, run: int, ith: int, nth: int) -> None:
        w, q, d, shift, y = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3), arg(step, 4)
        counter, order, starts = arg(step, 6), arg(step, 7), arg(step, 8)
        n, k, w_row, n_expert = arg(step, 9), arg(step, 10), arg(step, 11), arg(step, 12)
        codes, tiles = arg(step, 5) + ith * arg(step, 13), starts + 4 * (n_expert + 2)
        blocks, units = k // 32, (n + PANEL - 1) // PANEL
        scales = codes + PANEL * k
        end = (n_expert + 1) * units
        both = fetch_add(counter, 1)
        while both < end and not word(run, ABORT):
            then = fetch_add(counter, 1)  # known early, so that its weights are in cache when it begins
            e, unit = both // units, both % units
            first, last = get(starts + 4 * e, I32), get(starts + 4 * (e + 1), I32)
            left, out = n - unit * PANEL, y + 4 * unit * PANEL
            if e == n_expert:
                clear(out, 4 * n, order, first, last, left)
            elif first < last:
                panel = w + (e * n + unit * PANEL) * w_row
                decode_panel(kind, panel, w_row, lesser(left, PANEL), blocks, codes, scales)
                at = get(tiles + 4 * e, I32) * blocks
                e, unit = then // units, then % units
                ahead, lines = w + (e * n + unit * PANEL) * w_row, 0
                if e < n_expert and get(starts + 4 * e, I32) < get(starts + 4 * (e + 1), I32):
                    passes = (last - first + TILE - 1) // TILE * blocks
                    lines = (PANEL * w_row // 64 + passes) // passes
                for i in range(first, last, TILE):
                    values = (q + 32 * TILE * at, d + 4 * TILE * at, shift + 4 * TILE * at)
                    place = (out, 4 * n, order + 4 * i, last - i, left)
                    tile_block32(codes, scales, *values, blocks, *place, ahead, lines)
                    at, ahead = at + blocks, ahead + 64 * lines * blocks
            both = then

    return experts


@helper
def clear(y: int, y_row: int, order: int, first: int, last: int, left: int) -> None:
    """Zeros for the pairs without an expert."""
    for i in range(first, last):
        store_first(y + get(order + 4 * i, I32) * y_row, splat(0.0, 16), F32, left)


@helper
def row_of(x: int, pair: int, per_x: int, heads: int, token_stride: int, head_stride: int) -> int:
    px = pair // per_x
    return x + px // heads * token_stride + px % heads * head_stride


@kernel
def experts_float(kind: int) -> Callable[..., None]:
    """y[p] = w[expert of p] · x[p] in tiles of 4 pairs × 4 rows."""

    def experts(step: int, run: int, ith: int, nth: int) -> None:
        w, x, y, counter, order = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3), arg(step, 4)
        starts, n, k, w_row, n_expert = arg(step, 5), arg(step, 6), arg(step, 7), arg(step, 8), arg(step, 9)
        per_x, heads, token, head = arg(step, 10), arg(step, 11), arg(step, 12), arg(step, 13)
        units = (n + PANEL - 1) // PANEL
        while not word(run, ABORT):
            both = fetch_add(counter, 1)
            if both >= (n_expert + 1) * units:
                break
            e, unit = both // units, both % units
            first, last = get(starts + 4 * e, I32), get(starts + 4 * (e + 1), I32)
            if e == n_expert:
                clear(y + 4 * unit * PANEL, 4 * n, order, first, last, n - unit * PANEL)
                continue
            for i in range(first, last, 4):
                p0 = get(order + 4 * i, I32)
                p1 = get(order + 4 * lesser(i + 1, last - 1), I32)
                p2 = get(order + 4 * lesser(i + 2, last - 1), I32)
                p3 = get(order + 4 * lesser(i + 3, last - 1), I32)
                x0 = row_of(x, p0, per_x, heads, token, head)
                x1 = row_of(x, p1, per_x, heads, token, head)
                x2 = row_of(x, p2, per_x, heads, token, head)
                x3 = row_of(x, p3, per_x, heads, token, head)
                for r in range(unit * PANEL, lesser((unit + 1) * PANEL, n), 4):
                    last_w = lesser(n - r, 4) - 1
                    sums = dots_16_at(kind, x0, x1, x2, x3, w + (e * n + r) * w_row, w_row, last_w, k)
                    out = y + 4 * r
                    store_quarter(out + 4 * n * p0, sums, 0, last_w + 1)
                    if i + 1 < last:
                        store_quarter(out + 4 * n * p1, sums, 1, last_w + 1)
                    if i + 2 < last:
                        store_quarter(out + 4 * n * p2, sums, 2, last_w + 1)
                    if i + 3 < last:
                        store_quarter(out + 4 * n * p3, sums, 3, last_w + 1)

    return experts


def suits(w: Tensor, ids: Tensor) -> bool:
    """Whether a product takes the form for prompts: below two pairs per expert decoding costs more than it saves."""
    form = FORMS.get(w.dtype.id)
    panels = form is not None and w.dtype.block == form.group == 32 and not form.has_minima
    several = int(ids.shape[0]) > 1 and ids.type.numel >= 2 * w.shape[0]
    return several and (panels or w.dtype in FLOAT_TYPES)


def by_experts(low: Low, matrices: Operand, x: Tensor, y: Operand, ids: Tensor) -> None:
    """Adds the steps of y[t, u] = w[ids[t, u]] · x[t, u mod x.shape[1]]."""
    w = matrices.type
    n_expert, n, k = w.shape
    order, starts = low.shared(("by expert", ids, n_expert), lambda: _sorted(low, ids, n_expert))
    counter = low.scratch("next unit", i32(2))
    low.step(reset(), Out(counter))
    sizes = (n, k, matrices.strides[-2], n_expert)
    if w.dtype in FLOAT_TYPES:
        row = (ids.shape[1] // x.shape[1], *row_address(low.operand(x)))
        args = (matrices, low.operand(x), Out(y), Out(counter), order, starts, *sizes, *row)
        low.step(experts_float(w.dtype.id), *args)
        return
    offset = FORMS[w.dtype.id].offset
    key = ("q8 by expert", x, ids, n_expert, offset)
    packed = low.shared(key, lambda: _packed(low, x, order, starts, offset, n_expert, ids))
    panels = Out(
        low.scratch("weight panels", TensorType(dtypes.I8, (low.n_threads, panel_bytes(w.dtype.id, k))))
    )
    own = (panels, Out(counter), order, starts, *sizes, panel_bytes(w.dtype.id, k))
    low.step(experts_block32(w.dtype.id), matrices, *packed, Out(y), *own)


def _sorted(low: Low, ids: Tensor, n_expert: int) -> tuple[Operand, ...]:
    order = low.scratch("pairs by expert", i32(ids.type.numel))
    starts = low.scratch("expert starts", i32(3 * n_expert + 4))
    low.step(
        by_expert(), low.operand(ids), Out(order), Out(starts), n_expert, rows=rows_of(ids.type, inner=0)
    )
    return order, starts


def _packed(
    low: Low, x: Tensor, order: Operand, starts: Operand, offset: int, n_expert: int, ids: Tensor
) -> tuple[Operand, ...]:
    k, pairs, per_x = x.shape[-1], ids.type.numel, ids.shape[1] // x.shape[1]
    tiles = (pairs + (TILE - 1) * min(n_expert, pairs)) // TILE  # every expert's last tile may be part full
    q = low.scratch("q8 by expert", TensorType(dtypes.I8, (tiles, TILE * k)))
    d, shift = (
        low.scratch(f"q8 {name} by expert", i32(tiles, TILE * k // 32)) for name in ("scales", "shifts")
    )
    row = row_address(low.operand(x))
    outs = (Out(q), Out(d), Out(shift))
    low.step(pack_q8(offset), low.operand(x), *outs, order, starts, k, n_expert, per_x, *row)
    return q, d, shift
