"""Lowering on the CPU: an item is a step, one kernel call per thread."""

from dataclasses import dataclass

from graphsched.backends.cpu.language.jit import Kernel
from graphsched.backends.cpu.program import layout
from graphsched.backends.cpu.program.layout import rows_of as rows_of
from graphsched.backends.cpu.program.overlap import Over
from graphsched.backends.cpu.program.pack import Argument, Step
from graphsched.graph.tensor import TensorType
from graphsched.run import lowering
from graphsched.run.operand import Operand


@dataclass
class Low(lowering.Low):
    """Lowers nodes to steps of the CPU's kernels, on the host or on a simulated device."""

    def step(
        self,
        kernel: Kernel,
        *args: Argument,
        rows: tuple[int, int] = (layout.ONE, 1),
        over: Over = None,
    ) -> None:
        """Adds a step. `over`: its units are the rows of this type, dealt out by `share`, and unit r touches no row
        but r of an operand with as many rows. Of several types each shares out its own: then `rows` is given, too."""
        assert len(args) <= layout.STEP_WORDS - layout.STEP_ARGS, f"{kernel.name} takes too many arguments"
        word, times = rows_of(over) if isinstance(over, TensorType) else rows
        self.items.append(Step(kernel, args, word, times, self._node, self.device, over=over))


def row_address(operand: Operand) -> tuple[int, int, int]:
    """(heads, token stride, head stride): row r of [T, H, D] is at token (r // heads), head (r % heads)."""
    if len(operand.type.shape) == 3:
        return int(operand.type.shape[1]), operand.strides[0], operand.strides[1]
    return 1, operand.strides[0] if len(operand.type.shape) > 1 else 0, 0
