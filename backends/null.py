"""The null backend: lowers and plans memory without weights, kernels or arithmetic. What `plan` stands on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.lowering import dense
from graphsched.backends.cpu.program import Buffer, Operand, PythonStep, Step, plan_arenas
from graphsched.backends.cpu.runtime import CpuRuntime
from graphsched.backends.cpu.space import Memory
from graphsched.device import Progress
from graphsched.graph import Graph
from graphsched.memory import Arena
from graphsched.scheduler import Schedule, whole
from graphsched.tensor import Tensor

NOWHERE = Memory(0, np.empty(0, np.uint8))


class NullRuntime(CpuRuntime):
    """Leaves have sizes but no bytes."""

    def leaf(self, device: str, tensor: Tensor) -> Operand:
        if tensor.kind == "copy":
            return super().leaf(device, tensor)
        return dense(Buffer(tensor.name, tensor.type.nbytes, NOWHERE, device=device), tensor.type)

    def input(self, leaf: Tensor) -> NDArray[Any]:
        return np.zeros(tuple(int(d) for d in leaf.shape), np.int32)

    def compile(self, plan: Graph | Schedule, progress: Progress | None = None) -> "NullExecutable":  # type: ignore[override]  # what it returns cannot run
        schedule = plan if isinstance(plan, Schedule) else whole(self.in_kernel_types(plan))
        items, lows = self._lowered(schedule)
        device = schedule.assignment.device
        outputs = [lows[device[o]].operand(schedule.placed[o]).buffer for o in schedule.graph.outputs]
        return NullExecutable(schedule, plan_arenas(items, outputs), tuple(items))


@dataclass
class NullExecutable:
    """Arenas per device and the steps; running it does nothing."""

    schedule: Schedule
    arenas: Mapping[str, Arena]
    items: tuple[Step | PythonStep, ...]
    outputs: tuple[NDArray[Any], ...] = ()

    def run(self, lengths: Mapping[str, int]) -> None:
        pass


open_runtime = NullRuntime
