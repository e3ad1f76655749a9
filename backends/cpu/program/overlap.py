"""Which bytes a step touches, and whether two steps may run without a barrier between them.

Steps that go over the same rows in the same way do not wait for each other: `share` gives a row to the same thread in
both. So a sum, its normalisation and what follows row by row run back to back, as if they were one kernel.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from graphsched.backends.cpu.program.layout import rows_of
from graphsched.graph.tensor import TensorType
from graphsched.run.operand import Addresses, Operand

ONE_ROW = (1,)  # a single unit: one thread runs all of the step, whatever it touches
Rows = tuple[int, ...]
# The type whose rows are a step's units; of several, each shares out the rows of operands that have its very shape.
Over = TensorType | tuple[TensorType, ...] | None


@dataclass(frozen=True, slots=True)
class Touch:
    """Addresses [first, end), and how the step's units map to them: equal mappings never collide across threads."""

    first: int
    end: int
    rows: Rows | None = None

    def collides(self, other: "Touch") -> bool:
        """Whether two threads may touch the same bytes, one in each step."""
        overlap = self.first < other.end and other.first < self.end
        return overlap and (self.rows is None or self.rows != other.rows)


def touch(operand: Operand, over: Over, addresses: Addresses) -> Touch:
    """What a step whose units are the rows of `over` touches of an operand's buffer."""
    if isinstance(over, tuple):
        over = next((t for t in over if t.shape == operand.type.shape), None)
    return Touch(*addresses.span(operand), None if over is None else _rows(operand, over, addresses))


def _rows(operand: Operand, over: TensorType, addresses: Addresses) -> Rows | None:
    if _count(over.shape[:-1]) == 1:
        return ONE_ROW
    outer, strides = operand.type.shape[:-1], operand.strides[:-1]
    if rows_of(operand.type) != rows_of(over) or min(strides) < operand.type.dtype.row_bytes(
        operand.type.shape[-1]
    ):
        return None
    return (*rows_of(over), addresses.address(operand), *map(int, outer), *strides)


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for d in shape:
        n *= int(d)
    return n


def collide(a: Iterable[Touch], b: Iterable[Touch]) -> bool:
    """Whether any of these touches collides with any of those."""
    b = tuple(b)
    return any(x.collides(y) for x in a for y in b)
