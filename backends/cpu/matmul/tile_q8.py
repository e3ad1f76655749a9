"""The register tile of 8-bit products: a panel of 16 weight rows times 8 rows of activations, or 4.

Integer sums are exact: accumulators start at -offset · Σ q, so that codes may stay unsigned. Minima are taken off in
float32, a group at a time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.formats.forms import FORMS, Form, dot_codes
from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.dot_bytes import adds_pairs, dot_i8_i8, pair_fours, whole
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.lanes import first_of
from graphsched.backends.cpu.language.mathfn import gated_product
from graphsched.backends.cpu.language.simd import add_i32, fma, get, load, mul, prefetch, to_f32
from graphsched.backends.cpu.language.tile import (
    byte_columns,
    columns,
    each_row,
    in_registers,
    load_rows,
    store_rows,
    zeros,
    zeros_i16,
    zeros_i32,
)
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.language.vector import F32, I8, I32
from graphsched.backends.cpu.matmul.activations_tiles import TILE
from graphsched.backends.cpu.matmul.tile_ternary import ternary_dots


def panel_dots(kind: int, rows: int, operands: Any) -> Any:
    """A tile of the products of a panel with the first `rows` rows, 8 or 4, of a tile of activations.

    Lane i of row r is the product of weight row i and activation row r. The operands are (panel; codes, scales and
    shifts of the activations; k; ahead; lines): meanwhile so many cache lines per block of 32 arrive from `ahead`.
    For kernels.
    """
    raise NotImplementedError


@by_literal(panel_dots)
def _(t: int) -> Callable[..., Any]:
    return ternary_dots(FORMS[t]) if FORMS[t].ternary else _block_dots(FORMS[t])


def _block_dots(form: Form) -> Callable[..., Any]:
    t, group, has_minima, per_32 = form.type.id, form.group, form.has_minima, 32 // form.group

    def impl(kind: int, rows: int, operands: Any) -> Any:
        panel, q, d, shift, k, ahead, lines = operands
        scales = panel + PANEL * k
        minima = scales + 4 * PANEL * (k // group)
        total = zeros(rows, 16)
        for b in range(k // 32):
            for line in range(lines):
                prefetch(ahead + 64 * (b * lines + line))
            for half in range(per_32):
                c = per_32 * b + half
                sums = group_sums(
                    t, rows, panel + PANEL * group * c, q + TILE * group * c, shift + 4 * TILE * c
                )
                scale = mul(load(scales + 64 * c, F32, 16), columns(d + 4 * TILE * b, 4, F32, rows, 16))
                total = fma(to_f32(sums), scale, total)
                if has_minima:
                    shifts = columns(shift + 4 * TILE * c, 4, F32, rows, 16)
                    total = fma(load(minima + 64 * c, F32, 16), shifts, total)
        return total

    return impl


def group_sums(kind: int, rows: int, codes: int, q: int, shift: int) -> Any:
    """The sums of a group's products, offset taken off: a tile of int32. For kernels."""


@by_literal(group_sums)
def _(t: int) -> Callable[..., Any]:
    form = FORMS[t]
    if form.offset == 128 and adds_pairs():
        return _signed_sums(form.group)
    fours = min(pair_fours(form.most), form.group // 4)
    return _pair_sums(form, fours) if fours else _word_sums(form)


def _word_sums(form: Form) -> Callable[..., Any]:
    t, offset, fours = form.type.id, form.offset, form.group // 4

    def impl(kind: int, rows: int, codes: int, q: int, shift: int) -> Any:
        sums = columns(shift, 4, I32, rows, 16) if offset else zeros_i32(rows, 16)
        for four in range(fours):
            sums = dot_codes(
                t, sums, load(codes + 64 * four, I8, 64), byte_columns(q + 4 * TILE * four, rows)
            )
        return sums

    return impl


def _pair_sums(form: Form, fours: int) -> Callable[..., Any]:
    """In 16 bits while they fit, so many fours."""
    t, offset, pieces = form.type.id, form.offset, form.group // 4 // fours

    @helper
    def add_four(pairs: Any, codes: int, q: int, four: int) -> Any:
        return dot_codes(t, pairs, load(codes + 64 * four, I8, 64), byte_columns(q + 4 * TILE * four, pairs))

    def impl(kind: int, rows: int, codes: int, q: int, shift: int) -> Any:
        sums = columns(shift, 4, I32, rows, 16) if offset else zeros_i32(rows, 16)
        for piece in range(pieces):
            pairs = zeros_i16(rows, 32)
            for four in range(fours * piece, fours * (piece + 1), 2):
                pairs = add_four(add_four(pairs, codes, q, four), codes, q, four + 1)
                pairs = in_registers(pairs)
            sums = add_i32(sums, whole(pairs))
        return sums

    return impl


def _signed_sums(group: int) -> Callable[..., Any]:
    """The offset is 128: taken off the codes themselves."""

    def impl(kind: int, rows: int, codes: int, q: int, shift: int) -> Any:
        sums = zeros_i32(rows, 16)
        for four in range(group // 4):
            sums = dot_i8_i8(sums, load(codes + 64 * four, I8, 64), byte_columns(q + 4 * TILE * four, rows))
            sums = in_registers(sums)
        return sums

    return impl


def put_dots(
    kind: int, activation: int, operands: Any, y: int, y_row: int, order: int, i: int, end: int, left: int
) -> None:
    """Stores the products of a panel with rows i to `end` of activations, 8 at most, `left` lanes if there are not 16.

    `operands` are those of `panel_dots`. Row i goes to place order[i], or i if order is 0;
    with activation >= 0 the gates that are stored there are activated and multiplied by it. For kernels.
    """


@by_literal(put_dots)
def _(t: int) -> Callable[..., None]:
    return _by_eight(t) if target.has("avx512f") else _by_four(t)


def _by_eight(t: int) -> Callable[..., None]:
    def impl(
        kind: int, activation: int, operands: Any, y: int, y_row: int, order: int, i: int, end: int, left: int
    ) -> None:
        if i + 4 < end:
            put_some_dots(8, t, activation, operands, y, y_row, order, i, end, left)
        else:
            put_some_dots(4, t, activation, operands, y, y_row, order, i, end, left)

    return impl


def _by_four(t: int) -> Callable[..., None]:
    """Sixteen registers hold the sums of four rows and what is added to them."""

    def impl(
        kind: int, activation: int, operands: Any, y: int, y_row: int, order: int, i: int, end: int, left: int
    ) -> None:
        panel, q, d, shift, k, ahead, lines = operands
        for r in range(0, min(end - i, TILE), 4):
            half = (panel, q + 4 * r, d + 4 * r, shift + 4 * r, k, ahead, lines if r == 0 else 0)
            put_some_dots(4, t, activation, half, y, y_row, order, i + r, end, left)

    return impl


def put_some_dots(
    n: int,
    kind: int,
    activation: int,
    operands: Any,
    y: int,
    y_row: int,
    order: int,
    i: int,
    end: int,
    left: int,
) -> None:
    """`put_dots` of 8 rows, or of 4. For kernels."""


@by_literal(put_some_dots)
def _(rows: int) -> Callable[..., None]:
    def impl(
        n: int,
        kind: int,
        activation: int,
        operands: Any,
        y: int,
        y_row: int,
        order: int,
        i: int,
        end: int,
        left: int,
    ) -> None:
        there, lanes = placed_rows(rows, y, y_row, order, i, end), first_of(16, left)
        sums = panel_dots(kind, rows, operands)
        if activation >= 0:
            sums = gated_rows(rows, activation, load_rows(there, 0, F32, lanes), sums)
        store_rows(there, 0, sums, end - i, lanes)

    return impl


@each_row
def gated_rows(r: int, activation: int, gates: Any, up: Any) -> Any:
    """A row of gates, activated, times one of the sums of up."""
    return gated_product(activation, gates[r], up[r], np.float32(0.0), np.float32(0.0))


@each_row
def placed_rows(r: int, y: int, y_row: int, order: int, first: int, end: int) -> int:
    """Addresses of rows from `first` on, where `order` says or in order; behind the last one it is that one again."""
    return y + placed(order, min(first + r, end - 1)) * y_row


@helper
def placed(order: int, i: int) -> int:
    """The i-th row in this order, which is a list of int32; 0 stands for the rows as they come."""
    return get(order + 4 * i, I32) if order else i
