"""The reference backend: runs the numpy references in order. The oracle for every other backend."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.device import Device, Progress, Raw, Setup, StepTime
from graphsched.run.lowering import Low
from graphsched.run.operand import Addresses, Item, Memory, Operand, PythonStep, Work
from graphsched.run.python_step import run_python
from graphsched.types import dtypes
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType
from graphsched.types.shapes import Lengths

Array = NDArray[Any]
RUNS = 4096  # whose times are kept


class ReferenceDevice:
    """The host without kernels: every node is a Python step, everything but integers is float32."""

    def __init__(self) -> None:
        self.name = HOST
        self.streams: Mapping[Work, str] = MappingProxyType({"compute": HOST, "up": HOST, "down": HOST})
        self.aborted = False

    def supports(self, node: Tensor) -> bool:
        """Every op has a reference."""
        return True

    def kernel_type(self, leaf: Tensor) -> DType:
        """float32 for all types but int32."""
        return leaf.dtype if leaf.dtype == dtypes.I32 else dtypes.F32

    def weight_bytes(self, type: TensorType) -> int:
        """Bytes that a weight takes in its memory."""
        return type.nbytes

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed memory of `nbytes` bytes."""
        return self.adopt(np.zeros(nbytes, np.uint8))

    def adopt(self, raw: Raw, leaf: Tensor | None = None) -> Memory:
        """The host's bytes `raw` as memory of the device."""
        return Memory(raw.ctypes.data, raw.size, raw)

    def lowering(self, leaf: Callable[[Tensor], Operand], items: list[Item]) -> Low:
        """What lowers nodes of this device to `items`."""
        return Low("reference", leaf, items, self.adopt)

    def copy(self, source: Operand, result: Operand, ids: Operand | None = None) -> Item:
        """Raises OptionError: there are no other devices."""
        raise OptionError("the reference backend computes on the host only; --device needs -b cpu")

    def pack(
        self, items: Sequence[Item], addresses: Addresses, progress: Progress | None = None
    ) -> "ReferenceProgram":
        """A program that runs `items`, operands at `addresses`."""
        return ReferenceProgram(self, [i for i in items if isinstance(i, PythonStep)], addresses)

    def abort(self, on: bool) -> None:
        """With `on`, runs skip the steps that they have not begun, until it is called without."""
        self.aborted = on

    def close(self) -> None:
        """It holds nothing."""


class ReferenceProgram:
    """Python steps in running order."""

    def __init__(self, device: ReferenceDevice, steps: Sequence[PythonStep], addresses: Addresses) -> None:
        self._device, self._steps, self._addresses = device, steps, addresses
        self._runs: deque[list[float]] = deque(maxlen=RUNS)
        self._n_runs = 0

    def launch(self, lengths: Mapping[str, int], trace: int = 0) -> int:
        """Runs all steps. Returns the mark by which `times` finds the run, -1 without a trace."""
        actual, times = Lengths(lengths), [time.perf_counter()]
        for step in self._steps:
            if not self._device.aborted:
                run_python(step, self._addresses, actual)
            times.append(time.perf_counter())
        if not trace:
            return -1
        self._runs.append(times)
        self._n_runs += 1
        return self._n_runs - 1

    def wait(self) -> None:
        """Returns at once: `launch` returned when all was done."""

    def times(self, mark: int) -> list[StepTime]:
        """When the steps of a run began and ended, in seconds; [] if it was not recorded."""
        first = self._n_runs - len(self._runs)
        if mark < first:
            return []
        spans = pairwise(self._runs[mark - first])
        return [
            StepTime("python", s.index, s.device, a, b, b)
            for s, (a, b) in zip(self._steps, spans, strict=True)
        ]

    def lines(self) -> list[str]:
        """One line for each step."""
        return [f"step {i} python: {step.node}" for i, step in enumerate(self._steps)]


def open_host(setup: Setup) -> Device:
    """The device of the host."""
    return ReferenceDevice()
