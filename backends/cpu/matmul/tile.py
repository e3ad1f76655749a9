"""The register tile of float products: 4 rows of activations by 4 rows of weights, each decoded once for all four."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import by_literal
from graphsched.backends.cpu.language.lanes import fold_lanes
from graphsched.backends.cpu.language.tile import load_rows, outer, row_sums, split_rows, zeros
from graphsched.backends.cpu.language.vector import F32

ROWS = 4  # of activations, and of weights


def dots_4x4(kind: int, x: Any, w: Any, k: int) -> Any:
    """A tile whose row i has the dot products of the float32 row at x[i] with the rows of type `kind` at w[0] to w[3].

    x and w are tuples of addresses (`row_starts`). For kernels.
    """
    raise NotImplementedError


@by_literal(dots_4x4)
def _(t: int) -> Callable[..., Any]:
    size = 4 if t == F32 else 2

    @fold_lanes(16)
    def products(i: int, block: Any, acc: Any, x: Any, w: Any) -> Any:
        weights = load_rows(w, size * i, t, block)
        return outer(load_rows(x, 4 * i, F32, block), weights, acc)

    def impl(kind: int, x: Any, w: Any, k: int) -> Any:
        return split_rows(row_sums(products(k, zeros(16, 16), x, w)), 4)

    return impl
