"""Products by expert for prompts: pairs (token, choice) sorted by expert, then one pass over each expert's weights.

Three steps: `by_expert` sorts, `pack_q8_sorted` lays the activations of each expert out in tiles of 8 pairs, and
`experts_blocks` (or `experts_float`, which needs no packing) multiplies panels of 16 weight rows with them. Threads
take (expert, panel) units one by one, because experts have unequal work; every unit writes its own elements of y, so
that bits do not depend on who took it.
"""

from collections.abc import Callable

from graphsched.backends.cpu.formats.rows import FLOAT_TYPES
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import first_of
from graphsched.backends.cpu.language.prefetch import lines_each
from graphsched.backends.cpu.language.simd import (
    get,
    put,
    splat,
    store_first,
    word,
)
from graphsched.backends.cpu.language.tile import each_row, row_starts, store_rows
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.matmul.activations_tiles import TILE, packed_by_expert, tile_row, weight_panels
from graphsched.backends.cpu.matmul.panel import decode_panel, panel_bytes
from graphsched.backends.cpu.matmul.tile import dots_4x4
from graphsched.backends.cpu.matmul.tile_q8 import placed, placed_rows, put_dots
from graphsched.backends.cpu.program.kernel_args import arguments, next_unit, row_at, rows
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph.tensor import Tensor, i32
from graphsched.run.operand import Operand


@kernel("ids -> order starts | n_expert")
def by_expert() -> Callable[..., None]:
    """Sorts pairs by expert, in order within one; ids outside the range come last.

    starts[e] is the place of e's first pair in `order`, tiles[e] the number of tiles before e.
    """

    def sort(step: int, run: int, ith: int, nth: int) -> None:
        ids, order, starts, n_expert = arguments(step)
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


@kernel("w up q d shift order starts -> y panels | n k w_row n_expert per_thread")
def experts_blocks(kind: int, activation: int) -> Callable[..., None]:
    """y[p] = w[expert of p] · x[p] on int8.

    With `activation` >= 0 w is gate, and y[p] = f(gate[expert] · x[p]) · (up[expert] · x[p]).
    """
    n_matrices = 1 + int(activation >= 0)

    def experts(step: int, run: int, ith: int, nth: int) -> None:
        w, up, q, d, shift, order, starts, y, panels, n, k, w_row, n_expert, per_thread = arguments(step)
        panel, tiles = panels + ith * per_thread, starts + 4 * (n_expert + 2)
        from_gate_to_up, units = up - w, (n + PANEL - 1) // PANEL
        d_row, shift_row = tile_row(kind, k)
        claimed, end = next_unit(step), (n_expert + 1) * units
        while claimed < end and not word(run, ABORT):
            next_claim = next_unit(step)  # known early, so that its weights are in cache when it begins
            e, unit = claimed // units, claimed % units
            first, last = get(starts + 4 * e, I32), get(starts + 4 * (e + 1), I32)
            left, out = n - unit * PANEL, y + 4 * unit * PANEL
            if e == n_expert:
                clear(out, 4 * n, order, first, last, left)
            elif first < last:
                here, tile = w + (e * n + unit * PANEL) * w_row, get(tiles + 4 * e, I32)
                e, unit = next_claim // units, next_claim % units
                following = w + (e * n + unit * PANEL) * w_row
                has_more = e < n_expert and get(starts + 4 * e, I32) < get(starts + 4 * (e + 1), I32)
                passes = (last - first + TILE - 1) // TILE * (k // 32)
                for matrix in range(n_matrices):
                    decode_panel(kind, here + matrix * from_gate_to_up, w_row, min(left, PANEL), k, panel)
                    ahead = here + from_gate_to_up if matrix + 1 < n_matrices else following
                    lines = 0
                    if matrix + 1 < n_matrices or has_more:
                        lines = lines_each(PANEL * w_row, passes)
                    at = tile * TILE
                    for i in range(first, last, TILE):
                        operands = (
                            panel,
                            q + at * k,
                            d + at * d_row,
                            shift + at * shift_row,
                            k,
                            ahead,
                            lines,
                        )
                        put_dots(
                            kind, activation if matrix else -1, operands, out, 4 * n, order, i, last, left
                        )
                        at, ahead = at + TILE, ahead + 2 * lines * k
            claimed = next_claim

    return experts


@helper
def clear(y: int, y_row: int, order: int, first: int, last: int, left: int) -> None:
    """Zeros for the pairs without an expert."""
    for i in range(first, last):
        store_first(y + get(order + 4 * i, I32) * y_row, splat(0.0, 16), F32, left)


@each_row
def pair_rows(
    r: int, order: int, first: int, end: int, x: int, per_x: int, heads: int, x_token: int, x_head: int
) -> int:
    """Where the activations of pairs first to first + 3 are; behind the last one it is that one again."""
    return row_at(x, placed(order, min(first + r, end - 1)) // per_x, heads, x_token, x_head)


@kernel("w x order starts -> y | n k w_row n_expert per_x heads x_token x_head")
def experts_float(kind: int) -> Callable[..., None]:
    """y[p] = w[expert of p] · x[p] in tiles of 4 pairs × 4 rows."""

    def experts(step: int, run: int, ith: int, nth: int) -> None:
        w, x, order, starts, y, n, k, w_row, n_expert, per_x, heads, x_token, x_head = arguments(step)
        units = (n + PANEL - 1) // PANEL
        while not word(run, ABORT):
            claimed = next_unit(step)
            if claimed >= (n_expert + 1) * units:
                break
            e, unit = claimed // units, claimed % units
            first, last = get(starts + 4 * e, I32), get(starts + 4 * (e + 1), I32)
            if e == n_expert:
                clear(y + 4 * unit * PANEL, 4 * n, order, first, last, n - unit * PANEL)
                continue
            for i in range(first, last, 4):
                xs = pair_rows(4, order, i, last, x, per_x, heads, x_token, x_head)
                for r in range(unit * PANEL, min((unit + 1) * PANEL, n), 4):
                    ws = row_starts(4, w + (e * n + r) * w_row, w_row, n - r - 1)
                    ys = placed_rows(4, y + 4 * r, 4 * n, order, i, last)
                    store_rows(ys, 0, dots_4x4(kind, xs, ws, k), last - i, first_of(4, n - r))

    return experts


def suits(w: Tensor, ids: Tensor) -> bool:
    """Whether a product takes the form for prompts: below two pairs per expert decoding costs more than it saves."""
    return int(ids.shape[0]) > 1 and ids.type.numel >= 2 * w.shape[0]


def by_experts(low: Low, matrices: Operand, x: Tensor, y: Operand, ids: Tensor) -> None:
    """Adds the steps of y[t, u] = w[ids[t, u]] · x[t, u mod x.shape[1]]."""
    w = matrices.type
    if w.dtype not in FLOAT_TYPES:
        _by_panels(low, matrices, matrices, x, y, ids, activation=-1)
        return
    n_expert, n, k = w.shape
    order, starts = _sorted(low, ids, n_expert)
    operand, per_x = low.operand(x), ids.shape[1] // x.shape[1]
    low.step(
        experts_float(w.dtype.id),
        w=matrices,
        x=operand,
        order=order,
        starts=starts,
        y=y,
        n=n,
        k=k,
        w_row=matrices.strides[-2],
        n_expert=n_expert,
        per_x=per_x,
        **row_strides(x=operand),
    )


def up_gate_by_experts(
    low: Low, up: Operand, gate: Operand, x: Tensor, y: Operand, ids: Tensor, activation: int
) -> None:
    """Adds the steps of y[t, u] = f(gate[e] · x[t, u]) · (up[e] · x[t, u]), e = ids[t, u], for types with panels."""
    _by_panels(low, gate, up, x, y, ids, activation)


def _by_panels(
    low: Low, w: Operand, up: Operand, x: Tensor, y: Operand, ids: Tensor, activation: int
) -> None:
    (n_expert, n, k), kind = w.type.shape, w.type.dtype.id
    order, starts = _sorted(low, ids, n_expert)
    (q, d, shift), size = packed_by_expert(low, x, w.type, ids, (order, starts)), panel_bytes(kind, k)
    low.step(
        experts_blocks(kind, activation),
        w=w,
        up=up,
        q=q,
        d=d,
        shift=shift,
        order=order,
        starts=starts,
        y=y,
        panels=weight_panels(low, size),
        per_thread=size,
        n=n,
        k=k,
        w_row=w.strides[-2],
        n_expert=n_expert,
    )


def _sorted(low: Low, ids: Tensor, n_expert: int) -> tuple[Operand, ...]:
    """(order, starts) of pairs by expert."""
    return low.shared(("by expert", ids, n_expert), lambda: _sort(low, ids, n_expert))


def _sort(low: Low, ids: Tensor, n_expert: int) -> tuple[Operand, ...]:
    order = low.scratch("pairs by expert", i32(ids.type.numel))
    starts = low.scratch("expert starts", i32(3 * n_expert + 4))
    low.step(
        by_expert(),
        ids=low.operand(ids),
        order=order,
        starts=starts,
        n_expert=n_expert,
        rows=rows_of(ids.type, inner=0),
    )
    return order, starts
