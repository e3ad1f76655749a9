"""Lowering: each node becomes steps over symbolic operands.

A lowering is a function `(low, node) -> None` attached to its op: it takes operands from `low`, and adds steps.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from graphsched import dtypes
from graphsched.assign import HOST
from graphsched.backends.cpu import layout
from graphsched.backends.cpu.jit import Kernel
from graphsched.backends.cpu.program import Argument, Buffer, Operand, PythonStep, Step, contiguous_strides
from graphsched.backends.cpu.space import HostSpace, Space
from graphsched.opdef import lowering_for
from graphsched.tensor import Extent, Tensor, TensorType


@dataclass
class Low:
    """Lowers one graph. `leaf` gives the operand of a weight, input or cache."""

    leaf: Callable[[Tensor], Operand]
    n_threads: int = 1
    device: str = HOST
    space: Space = field(default_factory=HostSpace)
    steps: list[Step | PythonStep] = field(default_factory=list)
    _operands: dict[Tensor, Operand] = field(default_factory=dict)
    _shared: dict[Hashable, tuple[Operand, ...]] = field(default_factory=dict)
    _node: int = -1

    def lower(self, node: Tensor, index: int) -> None:
        """Adds the steps of a node; without a lowering for its types it becomes a Python step."""
        self._node = index
        row = lowering_for("cpu", node)
        if row is not None:
            row.emit(self, node)
        else:
            self.steps.append(PythonStep(node, tuple(map(self.operand, node.sources)), self.result(node)))

    def operand(self, tensor: Tensor) -> Operand:
        """Where a tensor's values are."""
        if tensor not in self._operands:
            assert tensor.kind != "node", f"{tensor} is used before it is computed"
            self._operands[tensor] = self.leaf(tensor)
        return self._operands[tensor]

    def result(self, node: Tensor, in_place_of: tuple[Tensor, ...] = ()) -> Operand:
        """A new dense buffer for a node; it may take over the memory of a source that dies here."""
        # Rows of a source that is a part of wider rows are not where the result's rows are.
        sources = [self.operand(s) for s in in_place_of if s.kind == "node"]
        reuse = tuple(s.buffer for s in sources if s.is_contiguous and s.buffer.nbytes == node.type.nbytes)
        buffer = Buffer(str(node), node.type.nbytes, reuse=reuse, device=self.device)
        self._operands[node] = dense(buffer, node.type)
        return self._operands[node]

    def alias(self, node: Tensor, operand: Operand) -> None:
        """Makes a node a view of existing memory."""
        self._operands[node] = operand

    def scratch(self, name: str, type: TensorType) -> Operand:
        return dense(Buffer(name, type.nbytes, device=self.device), type)

    def constant(self, array: NDArray[np.generic]) -> Operand:
        """Read-only data of the program."""
        memory = self.space.adopt(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        size = memory.bytes.size
        return dense(Buffer("constant", size, memory, device=self.device), TensorType(dtypes.I8, (size,)))

    def shared(self, key: Hashable, make: Callable[[], tuple[Operand, ...]]) -> tuple[Operand, ...]:
        """Work that several nodes share (quantised activations, rotation tables): made once, reused after."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def step(self, kernel: Kernel, *args: Argument, rows: tuple[int, int] = (layout.ONE, 1)) -> None:
        assert len(args) <= layout.STEP_WORDS - layout.STEP_ARGS, f"{kernel.name} takes too many arguments"
        self.steps.append(Step(kernel, args, rows[0], rows[1], self._node, self.device))


def dense(buffer: Buffer, type: TensorType) -> Operand:
    return Operand(buffer, type, contiguous_strides(type))


def rows_of(type: TensorType, inner: int = 1) -> tuple[int, int]:
    """(run-block word, factor) whose product is the number of rows in this run, all dimensions but the last `inner`."""
    outer = type.shape[: len(type.shape) - inner]
    times = 1
    for d in outer:
        times *= int(d)
    if outer and isinstance(outer[0], Extent):
        return layout.EXTENT_WORDS[outer[0].word], times // int(outer[0])
    return layout.ONE, times


def row_address(operand: Operand) -> tuple[int, int, int]:
    """(heads, token stride, head stride): row r of [T, H, D] is at token (r // heads), head (r % heads)."""
    if len(operand.type.shape) == 3:
        return int(operand.type.shape[1]), operand.strides[0], operand.strides[1]
    return 1, operand.strides[0] if len(operand.type.shape) > 1 else 0, 0
