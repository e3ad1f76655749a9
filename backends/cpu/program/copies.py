"""Copies of rows: how a strided operand becomes a dense one."""

from collections.abc import Callable

from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.simd import get, load, load_first, put, store, store_first
from graphsched.backends.cpu.language.vector import F32, U8
from graphsched.backends.cpu.program.kernel_args import arguments, row_at, rows, share


@kernel("x -> y | n y_row heads x_token x_head")
def copy_rows_f32() -> Callable[..., None]:
    """Rows of n elements of 4 bytes into rows `y_row` bytes apart."""

    def copy(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, y_row, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        full = n // 16 * 16
        for r in range(first, last):
            px, py = row_at(x, r, heads, x_token, x_head), y + r * y_row
            for i in range(0, full, 16):
                store(py + 4 * i, load(px + 4 * i, F32, 16), F32)
            if full < n:
                store_first(py + 4 * full, load_first(px + 4 * full, F32, 16, n - full), F32, n - full)

    return copy


@kernel("x -> y | n size x_item heads x_token x_head")
def copy_items() -> Callable[..., None]:
    """Rows of n items of `size` bytes that are `x_item` bytes apart, into dense rows: for layouts that are rare."""

    def copy(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, size, x_item, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            px, py = row_at(x, r, heads, x_token, x_head), y + r * n * size
            for i in range(n):
                for b in range(size):
                    put(py + i * size + b, get(px + i * x_item + b, U8), U8)

    return copy
