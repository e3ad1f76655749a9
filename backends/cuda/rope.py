"""Launches of rope.cu."""

import numpy as np

from graphsched import dtypes, ops
from graphsched.backends.cuda.call import Address, Call, threads
from graphsched.backends.cuda.lowering import At, Low, strides
from graphsched.operand import Out
from graphsched.tensor import Tensor


def rope(
    x: Address,
    positions: Address,
    freq: Address,
    y: Address,
    shape: tuple[int, int, int],
    n_rot: int,
    neox: bool,
    strides: tuple[int, int, int, int],
    mscale: float = 1.0,
    factors: Address = None,
) -> Call:
    """shape (tokens, heads, dims); strides (x head, x token, y head, y token); freq: radians a position."""
    tokens, heads, dims = shape
    args = (x, positions, freq, factors, y, dims, n_rot, int(neox), mscale, *strides)
    return Call("rope", (), "rope", (heads, tokens), min(256, threads(dims // 2)), args)


def temperature(
    x: Address,
    positions: Address,
    y: Address,
    shape: tuple[int, int, int],
    length: int,
    slope: float,
    strides: tuple[int, int],
) -> Call:
    """shape (tokens, heads, dims); strides of x's heads and tokens; y dense."""
    tokens, heads, dims = shape
    args = (x, positions, y, dims, length, slope, *strides)
    return Call("rope", (), "temperature", (heads, tokens), min(256, threads(dims)), args)


# ---- lowered


@ops.rope.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, pos, *factors = map(low.operand, node.sources)
    turn, y = node.attrs["rope"], low.result(node, in_place_of=node.sources[:1])
    (freq,) = low.shared(("rope", turn), lambda: (low.constant(turn.theta().astype(np.float32)),))
    (x0, x1), (y0, y1) = strides(x), strides(y)

    def make(at: At) -> list[Call]:
        apart, by = (x1, x0, y1, y0), at(factors[0]) if factors else None
        neox, how = turn.mode == "neox", float(turn.magnitude)
        return [rope(at(x), at(pos), at(freq), at(y), at.shape(node.type), turn.n_rot, neox, apart, how, by)]

    low.launch(make, x, pos, *factors, Out(y))


@ops.temperature_scale.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, pos = map(low.operand, node.sources)
    y, (x0, x1), a = low.result(node), strides(x), node.attrs
    low.launch(
        lambda at: [
            temperature(at(x), at(pos), at(y), at.shape(node.type), a["length"], a["slope"], (x1, x0))
        ],
        x,
        pos,
        Out(y),
    )
