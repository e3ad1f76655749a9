"""Products of one x with several matrices of one type: one launch where a kernel takes them together.

The first product makes the launch, those that follow join it in its place; gate and up of a feed-forward become one
product for a single token, activation included.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from graphsched.backends.cuda.call import Call, Launched
from graphsched.backends.cuda.families.elementwise import ACTIVATIONS, broadcast, two
from graphsched.backends.cuda.lowering import At, Low
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes

MOST = 3  # matrices of one launch


@dataclass(frozen=True)
class Part:
    """One of the products."""

    node: Tensor
    w: Operand
    y: Operand

    @property
    def rows(self) -> int:
        return int(self.w.type.shape[0])


Calls = Callable[[At, Sequence[Part]], Sequence[Launched]]
GatedCall = Callable[[At, Part, Part, Operand, str], Call]  # gate, up, result, activation


@dataclass
class Joined:
    """The launch of up to MOST products; `gated`: how gate and up of one token become one, if they can."""

    low: Low
    key: Hashable
    inputs: tuple[Operand | Out, ...]  # and memory of its own
    calls: Calls
    gated: GatedCall | None = None
    parts: list[Part] = field(default_factory=list)
    index: int = -1
    read: bool = False  # by more than what joins them

    def add(self, node: Tensor, w: Operand, y: Operand) -> None:
        part = Part(node, w, y)
        self.parts.append(part)
        self.low.products[node] = self
        self.low.when_read(node, self._is_read)
        if len(self.parts) == MOST:
            self.close()
        self._launched()

    def close(self) -> None:
        """No product joins any more."""
        self.low.products.pop(self.key, None)

    def _is_read(self) -> None:
        self.read = True

    def _launched(self) -> None:
        parts = self.parts
        args: tuple[Operand | Out, ...] = (*(p.w for p in parts), *self.inputs, *(Out(p.y) for p in parts))
        self.index = self.low.relaunch(self.index, self._calls, *args)

    def _calls(self, at: At) -> Sequence[Launched]:
        return self.calls(at, self.parts)

    # ---- gate and up

    def takes(self, gate: Tensor, up: Tensor, how: str) -> bool:
        """Whether activation(gate) · up can be one product: nobody else reads them, and there is one token."""
        mine = {p.node for p in self.parts} == {gate, up} and len(self.parts) == 2
        return (
            mine
            and not self.read
            and self.gated is not None
            and how in ACTIVATIONS
            and int(gate.shape[0]) == 1
        )

    def gate(self, gate: Tensor, up: Tensor, y: Operand, how: str) -> None:
        """Makes one product of both. Should somebody read them after all, they are written, too."""
        assert self.gated is not None
        of, gated = {p.node: p for p in self.parts}, self.gated
        g, u = of[gate], of[up]
        self.close()
        self.low.relaunch(self.index, lambda at: [gated(at, g, u, y, how)], g.w, u.w, *self.inputs, Out(y))
        apart = ((g.rows, 0),) * 3

        def both() -> None:
            self.low.relaunch(
                self.index,
                lambda at: [
                    *self._calls(at),
                    broadcast(f"{how}_mul", at(g.y), at(u.y), at(y), at.shape(y.type), apart),
                ],
                g.w,
                u.w,
                *self.inputs,
                Out(g.y),
                Out(u.y),
                Out(y),
            )

        for node in (gate, up):
            self.low.when_read(node, both)


def joined(
    low: Low,
    node: Tensor,
    key: Hashable,
    inputs: tuple[Operand | Out, ...],
    calls: Calls,
    gated: GatedCall | None = None,
) -> None:
    """Lowers a product with a whole matrix. Those with the same key have the same x and type of weights."""
    w, y = low.operand(node.sources[0]), low.result(node)
    resident = (
        w.buffer.memory is not None
    )  # an uploaded weight is not there yet where the first product stands
    found = low.products.get(key) if low.fuses and resident else None
    if found is None:
        found = Joined(low, key, inputs, calls, gated)
        if low.fuses:
            low.products[key] = found
    found.add(node, w, y)


@ops.fused_mul_unary.lowering("cuda", a=(dtypes.F32,), b=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    (gate, up), how = node.sources, node.attrs["kind"]
    products = low.products.get(gate)
    if products is not None and products.takes(gate, up, how):
        products.gate(gate, up, low.result(node), how)
    else:
        two(low, node, f"{how}_mul")
