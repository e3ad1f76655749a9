"""Running packed programs: on the pool's threads, or as a simulated stream in a thread of its own."""

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.layout import ABORT, EXTENT_WORDS, TRACE, TRACE_WORDS
from graphsched.backends.cpu.pool import POOL, read_cycles, run_alone, ticks_per_second
from graphsched.backends.cpu.program import PackedProgram, Step
from graphsched.backends.reference import run_python
from graphsched.device import Capacity, StepTime
from graphsched.operand import PythonStep


class CpuProgram:
    """A packed program of the host; Python steps run where it is cut."""

    def __init__(self, packed: PackedProgram, run_block: NDArray[np.int64], n_threads: int) -> None:
        self.packed, self._block, self._n_threads = packed, run_block, n_threads
        self._run = run_block.ctypes.data
        self._ranges = [(packed.address(s), s.count, s.python) for s in packed.segments]
        self._ticks = np.zeros((0, TRACE_WORDS), np.int64)
        self._python_ticks: list[tuple[int, int, int]] | None = None

    def launch(self, lengths: Mapping[str, int], trace: bool = False) -> None:
        block = self._block
        for name, n in lengths.items():
            block[EXTENT_WORDS[name]] = n
        self._ticks = np.zeros((len(self.packed.words) if trace else 0, TRACE_WORDS), np.int64)
        self._python_ticks = [] if trace else None
        block[TRACE] = self._ticks.ctypes.data if trace else 0
        for address, count, python in self._ranges:
            if python is None:
                POOL.run(address, count, self._run, self._n_threads)
            elif not block[ABORT]:  # after an abort sources hold anything
                self._run_python(python, Capacity(lengths))
        block[TRACE] = 0

    def wait(self) -> None:
        pass

    def _run_python(self, step: PythonStep, actual: Capacity) -> None:
        began = read_cycles()
        run_python(step, self.packed.places, actual)
        if self._python_ticks is not None:
            done = read_cycles()
            self._python_ticks.append((began, done, done))

    def times(self) -> list[StepTime]:
        if not len(self._ticks) and not self._python_ticks:
            return []
        packed, python = iter(self._ticks), iter(self._python_ticks or ())
        items = self.packed.items
        ticks = np.array([next(packed if isinstance(item, Step) else python) for item in items])
        seconds = ticks / ticks_per_second()
        return [StepTime(*_what(i), *map(float, t)) for i, t in zip(items, seconds, strict=True)]


def _what(item: Step | PythonStep) -> tuple[str, int, str]:
    if isinstance(item, Step):
        return item.kernel.name, item.node, item.device
    return "python", item.index, item.device


class StreamProgram:
    """A stream of a simulated device, in a thread of its own; flags order it with the others."""

    def __init__(self, packed: PackedProgram, run_block: NDArray[np.int64]) -> None:
        self.packed, self._block = packed, run_block
        self._thread: threading.Thread | None = None

    def launch(self, lengths: Mapping[str, int], trace: bool = False) -> None:
        for name, n in lengths.items():
            self._block[EXTENT_WORDS[name]] = n
        words = self.packed.words
        args = words.ctypes.data, len(words), self._block.ctypes.data
        self._thread = threading.Thread(target=run_alone, args=args)
        self._thread.start()

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def times(self) -> list[StepTime]:
        return []
