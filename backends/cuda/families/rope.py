"""Launches of rope.cu."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphsched.backends.cuda.launch.call import Address, Call, threads
from graphsched.backends.cuda.launch.fused import takes_whole
from graphsched.backends.cuda.launch.lowering import At, Low, strides, three
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes


@dataclass(frozen=True)
class Rotated:
    """What is rotated, and where it goes; strides (x head, x token, y head, y token)."""

    x: Address
    y: Address
    heads: int
    strides: tuple[int, int, int, int]


def rope(
    of: Sequence[Rotated],
    positions: Address,
    freq: Address,
    tokens: int,
    dims: int,
    n_rot: int,
    neox: bool,
    mscale: float = 1.0,
    factors: Address = None,
    every: int = 1,
) -> Call:
    """One or two tensors [tokens, heads, dims] at positions rounded down to `every`; freq: radians a position."""
    first, last = of[0], of[-1]
    flat = (v for t in (first, last) for v in (t.x, t.y, *t.strides))
    args = (*flat, first.heads, positions, freq, factors, dims, n_rot, int(neox), every, mscale)
    grid = (sum(t.heads for t in of), tokens)
    return Call("rope", (), "rope", grid, min(256, threads(dims // 2)), args)


def temperature(
    x: Address,
    positions: Address,
    y: Address,
    shape: tuple[int, int, int],
    length: int,
    offset: int,
    slope: float,
    strides: tuple[int, int],
) -> Call:
    """shape (tokens, heads, dims); strides of x's heads and tokens; y dense."""
    tokens, heads, dims = shape
    args = (x, positions, y, dims, length, offset, slope, *strides)
    return Call("rope", (), "temperature", (heads, tokens), min(256, threads(dims)), args)


# ---- lowered


def _strides(x: Operand, y: Operand) -> tuple[int, int, int, int]:
    (x0, x1), (y0, y1) = strides(x), strides(y)
    return x1, x0, y1, y0


def _rotate(low: Low, node: Tensor, pairs: Sequence[tuple[Operand, Operand]], rest: Sequence[Tensor]) -> None:
    """Launches the rotation of one tensor or two, each with its result; `rest`: positions, and factors if any."""
    how, (pos, *factors) = node.attrs["rope"], map(low.operand, rest)
    (freq,) = low.shared(("rope", how), lambda: (low.constant(how.theta().astype(np.float32)),))

    def make(at: At) -> list[Call]:
        tokens, _, dims = at.shape(pairs[0][0].type)
        rotated = [Rotated(at(x), at(y), three(x.type)[1], _strides(x, y)) for x, y in pairs]
        attrs = how.n_rot, how.mode == "neox", float(how.magnitude)
        divisors = at(factors[0]) if factors else None
        return [rope(rotated, at(pos), at(freq), tokens, dims, *attrs, divisors, how.every)]

    low.launch(make, *(x for x, _ in pairs), pos, freq, *factors, *(Out(y) for _, y in pairs))


@ops.rope.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, y = low.operand(node.sources[0]), low.result(node, in_place_of=node.sources[:1])
    _rotate(low, node, [(x, y)], node.sources[1:])


@ops.fused_rope.lowering("cuda", when=takes_whole, q=(dtypes.F32,), k=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    rows = tuple(map(low.operand, node.sources[:2]))
    rotated = low.results(node, in_place_of=node.sources[:2], pairwise=True)
    _rotate(low, node, list(zip(rows, rotated, strict=True)), node.sources[2:])


@ops.temperature_scale.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, pos = map(low.operand, node.sources)
    y, (x0, x1), a = low.result(node), strides(x), node.attrs
    low.launch(
        lambda at: [
            temperature(
                at(x), at(pos), at(y), at.shape(node.type), a["length"], a["offset"], a["slope"], (x1, x0)
            )
        ],
        x,
        pos,
        Out(y),
    )
