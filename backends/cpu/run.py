"""Running packed programs: on the pool's threads, or as a simulated stream in a thread of its own."""

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.layout import ABORT, EXTENT_WORDS, TRACE, TRACE_STRIDE, TRACE_WORDS
from graphsched.backends.cpu.pool import POOL, read_cycles, run_alone
from graphsched.backends.cpu.program import PackedProgram, Step
from graphsched.backends.cpu.ring import CLOCK, NOTHING, Ring
from graphsched.backends.reference import run_python
from graphsched.device import Capacity, StepTime
from graphsched.operand import PythonStep
from graphsched.trace import THREADS


class _Recorded:
    """A packed program whose runs leave times in a ring."""

    def __init__(
        self, packed: PackedProgram, run_block: NDArray[np.int64], ring: Ring, n_threads: int
    ) -> None:
        self.packed, self._block, self._ring, self._n_threads = packed, run_block, ring, n_threads
        self._run = run_block.ctypes.data
        self._n_words = TRACE_WORDS * len(packed.items)
        self._level, self._regions, self._since = (
            -1,
            1,
            0,
        )  # the level of runs, and the first mark of that level
        if not CLOCK.is_set:
            CLOCK.anchor()

    def _begin(self, lengths: Mapping[str, int], trace: int) -> int:
        """Fills the run block; the mark of this run's region."""
        block = self._block
        for name, n in lengths.items():
            block[EXTENT_WORDS[name]] = n
        if trace != self._level:
            self._level, self._regions = trace, self._n_threads if trace == THREADS else 1
            self._since = self._ring.end
        if not trace:
            block[TRACE] = 0
            return NOTHING
        mark = self._ring.take(self._n_words * self._regions)
        block[TRACE] = self._ring.address(mark)
        block[TRACE_STRIDE] = 8 * self._n_words if self._regions > 1 else 0
        return mark

    def times(self, mark: int) -> list[StepTime]:
        """The steps of a run, thread by thread, in the order of the program's items."""
        if mark < self._since or mark == NOTHING:
            return []
        ticks = self._ring.read(mark, self._n_words * self._regions)
        if ticks is None:
            return []
        rows = CLOCK.seconds(ticks).reshape(self._regions, len(self.packed.items), TRACE_WORDS).tolist()
        items = [_what(i) for i in self.packed.items]
        return [
            StepTime(kernel, node, device, begun, done, joined, thread)
            for thread, own in enumerate(rows)
            for (kernel, node, device), (begun, done, joined) in zip(items, own, strict=True)
            if thread == 0 or kernel != PYTHON
        ]


PYTHON = "python"


def _what(item: Step | PythonStep) -> tuple[str, int, str]:
    if isinstance(item, Step):
        return item.kernel.name, item.node, item.device
    return PYTHON, item.index, item.device


class CpuProgram(_Recorded):
    """A packed program of the host; Python steps run where it is cut."""

    def __init__(
        self, packed: PackedProgram, run_block: NDArray[np.int64], ring: Ring, n_threads: int
    ) -> None:
        super().__init__(packed, run_block, ring, n_threads)
        numbers = iter([i for i, item in enumerate(packed.items) if isinstance(item, PythonStep)])
        self._ranges = [
            (packed.address(s), s.count, s.python, next(numbers) if s.python else 0) for s in packed.segments
        ]

    def launch(self, lengths: Mapping[str, int], trace: int = 0) -> int:
        mark = self._begin(lengths, trace)
        for address, count, python, number in self._ranges:
            if python is None:
                POOL.run(address, count, self._run, self._n_threads)
            else:
                self._run_python(python, Capacity(lengths), number, mark)
        return mark

    def wait(self) -> None:
        pass

    def _run_python(self, step: PythonStep, actual: Capacity, number: int, mark: int) -> None:
        begun = read_cycles()
        if not self._block[ABORT]:  # after an abort sources hold anything
            run_python(step, self.packed.places, actual)
        if mark != NOTHING:
            done = read_cycles()
            own = self._ring.region(mark, self._n_words)[TRACE_WORDS * number :]
            own[:TRACE_WORDS] = begun, done, done


class StreamProgram(_Recorded):
    """A stream of a simulated device, in a thread of its own; flags order it with the others."""

    def __init__(self, packed: PackedProgram, run_block: NDArray[np.int64], ring: Ring) -> None:
        super().__init__(packed, run_block, ring, 1)
        self._thread: threading.Thread | None = None

    def launch(self, lengths: Mapping[str, int], trace: int = 0) -> int:
        mark = self._begin(lengths, trace)
        words = self.packed.words
        args = words.ctypes.data, len(words), self._run
        self._thread = threading.Thread(target=run_alone, args=args)
        self._thread.start()
        return mark

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
