"""Launches of rope.cu."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from graphsched.backends.cuda.call import Address, Call, threads
from graphsched.backends.cuda.lowering import At, Low, strides, three
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes


@dataclass(frozen=True)
class Turned:
    """What turns, and where it goes; strides (x head, x token, y head, y token)."""

    x: Address
    y: Address
    heads: int
    strides: tuple[int, int, int, int]


def rope(
    of: Sequence[Turned],
    positions: Address,
    freq: Address,
    tokens: int,
    dims: int,
    n_rot: int,
    neox: bool,
    mscale: float = 1.0,
    factors: Address = None,
) -> Call:
    """One or two tensors [tokens, heads, dims] at the same positions; freq: radians a position."""
    first, last = of[0], of[-1]
    flat = (v for t in (first, last) for v in (t.x, t.y, *t.strides))
    args = (*flat, first.heads, positions, freq, factors, dims, n_rot, int(neox), mscale)
    grid = (sum(t.heads for t in of), tokens)
    return Call("rope", (), "rope", grid, min(256, threads(dims // 2)), args)


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


@dataclass
class Turn:
    """A launch that turns one tensor, and takes another of the same positions and angles."""

    low: Low
    node: Tensor
    shared: tuple[Operand, ...]  # positions, frequencies, factors
    pairs: list[tuple[Operand, Operand]] = field(default_factory=list)
    index: int = -1

    def takes(self, x: Operand) -> bool:
        return len(self.pairs) == 1 and self.low.is_ready(x, self.index)

    def add(self, x: Operand, y: Operand) -> None:
        self.pairs.append((x, y))
        args: tuple[Operand | Out, ...] = (
            *(x for x, _ in self.pairs),
            *self.shared,
            *(Out(y) for _, y in self.pairs),
        )
        self.index = self.low.relaunch(self.index, self._calls, *args)

    def _calls(self, at: At) -> list[Call]:
        turn, (tokens, _, dims) = self.node.attrs["rope"], at.shape(self.node.type)
        of = [Turned(at(x), at(y), three(x.type)[1], _strides(x, y)) for x, y in self.pairs]
        pos, freq, *factors = map(at, self.shared)
        how = turn.n_rot, turn.mode == "neox", float(turn.magnitude)
        return [rope(of, pos, freq, tokens, dims, *how, factors[0] if factors else None)]


def _strides(x: Operand, y: Operand) -> tuple[int, int, int, int]:
    (x0, x1), (y0, y1) = strides(x), strides(y)
    return x1, x0, y1, y0


@ops.rope.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, pos, *factors = map(low.operand, node.sources)
    turn, y = node.attrs["rope"], low.result(node, in_place_of=node.sources[:1])
    (freq,) = low.shared(("rope", turn), lambda: (low.constant(turn.theta().astype(np.float32)),))
    key = turn, node.shape[-1], pos.buffer, *(f.buffer for f in factors)
    found = low.turns.pop(key, None)
    if found is None or not found.takes(x):
        found = Turn(low, node, (pos, freq, *factors))
        if low.fuses:
            low.turns[key] = found
    found.add(x, y)


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
