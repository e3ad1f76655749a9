"""Lowering on the CPU: an item is a step, one kernel call per thread."""

from dataclasses import dataclass

from graphsched import lowering
from graphsched.backends.cpu import layout
from graphsched.backends.cpu.jit import Kernel
from graphsched.backends.cpu.program import Argument, Step
from graphsched.operand import Operand
from graphsched.tensor import Extent, TensorType


@dataclass
class Low(lowering.Low):
    """Lowers nodes to steps of the CPU's kernels, on the host or on a simulated device."""

    def step(self, kernel: Kernel, *args: Argument, rows: tuple[int, int] = (layout.ONE, 1)) -> None:
        assert len(args) <= layout.STEP_WORDS - layout.STEP_ARGS, f"{kernel.name} takes too many arguments"
        self.items.append(Step(kernel, args, rows[0], rows[1], self._node, self.device))


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
