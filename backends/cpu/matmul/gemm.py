"""GEMM for prompts: register tiles over float rows, or over panels of 16 decoded rows."""

from collections.abc import Callable

from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.lanes import first_of
from graphsched.backends.cpu.language.prefetch import lines_each
from graphsched.backends.cpu.language.simd import word
from graphsched.backends.cpu.language.tile import row_starts, store_rows
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.matmul.activations_tiles import TILE, tile_row
from graphsched.backends.cpu.matmul.panel import decode_panel
from graphsched.backends.cpu.matmul.tile import dots_4x4
from graphsched.backends.cpu.matmul.tile_q8 import put_dots
from graphsched.backends.cpu.program.kernel_args import arguments, deal, onward, rows
from graphsched.backends.cpu.program.layout import ABORT

FLOAT_UNIT = 16  # weight rows whose bytes stay in cache while all tokens pass


@kernel("w x -> y | n k w_row heads x_token x_head")
def gemm_float(kind: int) -> Callable[..., None]:
    """y[t, h, n] = w[h, n] · x[t, h], tiles of 4 tokens × 4 rows; a unit's rows stay in cache while all tokens pass."""

    def gemm(step: int, run: int, ith: int, nth: int) -> None:
        w, x, y, n, k, w_row, heads, x_token, x_head = arguments(step)
        n_tokens = rows(step, run)
        y_row, units = 4 * heads * n, (n + FLOAT_UNIT - 1) // FLOAT_UNIT
        claimed, last = deal(step, ith, nth, heads * units, 1)
        while claimed < last and not word(run, ABORT):
            h, unit = claimed // units, claimed % units
            w_h, x_h, y_h = w + h * n * w_row, x + h * x_head, y + h * n * 4
            end = min((unit + 1) * FLOAT_UNIT, n)
            for t in range(0, n_tokens, 4):
                for r in range(unit * FLOAT_UNIT, end, 4):
                    xs = row_starts(4, x_h + t * x_token, x_token, n_tokens - t - 1)
                    ws = row_starts(4, w_h + r * w_row, w_row, n - r - 1)
                    ys = row_starts(4, y_h + t * y_row + 4 * r, y_row, n_tokens - t - 1)
                    store_rows(ys, 0, dots_4x4(kind, xs, ws, k), n_tokens - t, first_of(4, n - r))
            claimed, last = onward(step, ith, nth, heads * units, claimed, last)

    return gemm


@kernel("w q d shift -> y panels | n k w_row per_thread heads")
def gemm_blocks(kind: int) -> Callable[..., None]:
    """y[t, h, n] = w[h, n] · x[t, h] on int8: 16 rows are decoded to a panel for all tokens."""

    def gemm(step: int, run: int, ith: int, nth: int) -> None:
        w, q, d, shift, y, panels, n, k, w_row, per_thread, heads = arguments(step)
        panel, n_tokens = panels + ith * per_thread, rows(step, run)
        tiles, units, y_row = (n_tokens + TILE - 1) // TILE, (n + PANEL - 1) // PANEL, heads * 4 * n
        d_row, shift_row = tile_row(kind, k)
        each = lines_each(PANEL * w_row, tiles * (k // 32))
        claimed, last = deal(step, ith, nth, heads * units, 1)
        while claimed < last and not word(run, ABORT):
            h, unit = claimed // units, claimed % units
            left, out = n - unit * PANEL, y + 4 * (h * n + unit * PANEL)
            here = w + (h * n + unit * PANEL) * w_row
            decode_panel(kind, here, w_row, min(left, PANEL), k, panel)
            ahead = here + PANEL * w_row
            end = ahead + min(heads * units - claimed - 1, 1) * PANEL * w_row
            for t in range(tiles):
                lines = each if ahead < end else 0
                at = (h * tiles + t) * TILE
                operands = (panel, q + at * k, d + at * d_row, shift + at * shift_row, k, ahead, lines)
                put_dots(kind, -1, operands, out, y_row, 0, TILE * t, n_tokens, left)
                ahead += 2 * lines * k
            claimed, last = onward(step, ith, nth, heads * units, claimed, last)

    return gemm
