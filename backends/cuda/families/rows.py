"""Launches of rows.cu: reductions of dense rows, a warp each."""

from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.fused import MOST_GROUPS, TOP_MOST
from graphsched.errors import ShapeError


def soft_max(x: Address, y: Address, rows: int, n: int, scale: float = 1.0) -> Call:
    """y[r] = softmax(scale · x[r]) over n floats."""
    return _call("soft_max", rows, (x, y, rows, n, scale))


def sum_rows(x: Address, y: Address, rows: int, n: int) -> Call:
    """y[r] = Σ x[r] over n floats."""
    return _call("sum_rows", rows, (x, y, rows, n))


def top_k(x: Address, ids: Address, rows: int, n: int, k: int, groups: int = 0, groups_used: int = 0) -> Call:
    """Indices of the k largest; with groups only those of the `groups_used` best."""
    if n > TOP_MOST or groups > MOST_GROUPS:
        raise ShapeError(f"top_k: rows of {n} in {groups} groups; at most {TOP_MOST} in {MOST_GROUPS}")
    return _call("top_k", rows, (x, ids, rows, n, k, groups, groups_used))


def _call(kernel: str, rows: int, args: tuple[Address, ...]) -> Call:
    return Call("rows", (), kernel, (up(rows, 4),), 128, args)
