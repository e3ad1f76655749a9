"""What kernels with recurrent state share: whose row of state a token has, and rows of matrices four at a time."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.lanes import fold_lanes, load_lanes
from graphsched.backends.cpu.language.simd import fma, get
from graphsched.backends.cpu.language.tile import load_rows
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.run.operand import Operand

PART = 32  # rows of a head's matrix that are a unit of work: a few pages, which stay in the first cache for all tokens
TILE = 4  # of these, rows that share what is read of keys and queries


@helper
def slot_of(where: int, where_row: int, t: int) -> int:
    """The slot of token t's sequence."""
    return get(where + t * where_row, I32)


@helper
def is_first(where: int, where_row: int, t: int) -> bool:
    """Whether token t is the first of its sequence, and begins with zeros."""
    return get(where + t * where_row + 4, I32) == 0


@helper
def run_end(where: int, where_row: int, t: int, n: int) -> int:
    """The token behind the last one, of n, that follows token t in its sequence."""
    slot, end = slot_of(where, where_row, t), t + 1
    while end < n and slot_of(where, where_row, end) == slot and not is_first(where, where_row, end):
        end += 1
    return end


@helper
def matrix_at(a: Any, rows: int, columns: int, t: int, head: int, first: int) -> int:
    """Where the matrix [rows, columns] of token t's sequence and a head begins, from row `first`."""
    place = a.heads * slot_of(a.where, a.where_row, t) + head
    return a.state + 4 * columns * (rows * place + first)


@fold_lanes(16)
def dots(i: int, block: Any, acc: Any, rows: Any, x: int) -> Any:
    """Adds products of the rows at these addresses with x to a tile's lanes; called with (n, acc, rows, x)."""
    return fma(load_rows(rows, 4 * i, F32, block), load_lanes(x + 4 * i, F32, block), acc)


def where_args(where: Operand) -> dict[str, Any]:
    """The arguments by which kernels read `where`."""
    return {"where": where, "where_row": where.strides[0]}


def by_tile(made: Callable[[int], Callable[..., None]]) -> Callable[..., None]:
    """Decorates `made(tile)`, which returns `update(first, ...)` for a tile of rows from the first one.

    The helper made, `rows(n, ...)`, runs it for n rows, TILE at a time, then for the rest one by one.
    """
    several, one = helper(made(TILE)), helper(made(1))

    @helper
    def every(n: int, *args: Any) -> None:
        for first in range(0, n // TILE * TILE, TILE):
            several(first, *args)
        for first in range(n // TILE * TILE, n):
            one(first, *args)

    return every
