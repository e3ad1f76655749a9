"""Running packed programs: on the pool's threads, or as a simulated stream in a thread of its own."""

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.program.layout import (
    ABORT,
    EXTENT_WORDS,
    TRACE,
    TRACE_ALL,
    TRACE_STRIDE,
    TRACE_WORDS,
)
from graphsched.backends.cpu.program.pack import PackedProgram, Step, stamped
from graphsched.backends.cpu.program.pool import POOL, read_cycles, run_alone
from graphsched.backends.cpu.program.ring import CLOCK, NOTHING, PROFILE_WORDS, Ring
from graphsched.run.device import StepTime
from graphsched.run.operand import PythonStep
from graphsched.run.python_step import run_python
from graphsched.run.trace import OFF, THREADS
from graphsched.types.shapes import Lengths


class _Recorded:
    """A packed program whose runs leave times in a ring."""

    def __init__(
        self, packed: PackedProgram, run_block: NDArray[np.int64], ring: Ring, n_threads: int
    ) -> None:
        self.packed, self._block, self._ring, self._n_threads = packed, run_block, ring, n_threads
        self._run = run_block.ctypes.data
        self._n_words = TRACE_WORDS * len(packed.items)
        self._words = run_block.data  # a third of the time that numpy takes for one word
        self._n_region, self._stamped = self._n_words, np.array(stamped(packed.items), bool)
        self._level, self._regions, self._since = OFF, 1, 0  # of runs, and the first mark of that level
        if not CLOCK.is_set:
            CLOCK.anchor()

    def _begin(self, lengths: Mapping[str, int], trace: int) -> int:
        """Fills the run block; the mark of this run's region."""
        block = self._words
        for name, n in lengths.items():
            block[EXTENT_WORDS[name]] = n
        if trace != self._level:
            self._set_level(trace)
        if not trace:
            block[TRACE] = 0
            return NOTHING
        ring, n = self._ring, self._n_region
        at = ring.at if ring.at + n <= ring.size else ring.wrap(n)
        ring.at = at + n
        block[TRACE] = ring.address + 8 * at
        if trace == THREADS:
            block[TRACE_STRIDE], block[TRACE_ALL] = 8 * self._n_words, 1
        return ring.lap + at

    def _set_level(self, trace: int) -> None:
        """What was recorded at another level is given up: its regions have another size."""
        self._level, self._regions = trace, self._n_threads if trace == THREADS else 1
        if trace == THREADS:
            self._ring.grow(PROFILE_WORDS)
        self._n_region, self._since = self._n_words * self._regions, self._ring.end

    def _end(self) -> None:
        """Others share the run block, and have regions of their own sizes."""
        if self._level == THREADS:
            self._words[TRACE_STRIDE] = self._words[TRACE_ALL] = 0

    def times(self, mark: int) -> list[StepTime]:
        """The steps of a run, thread by thread, in the order of the program's items.

        Steps that share a stamp share the time, too.
        """
        if mark < self._since or mark == NOTHING:
            return []
        ticks = self._ring.read(mark, self._n_region)
        if ticks is None:
            return []
        table = ticks.reshape(self._regions, len(self.packed.items), TRACE_WORDS)
        if self._level != THREADS:
            table = _shared(table[0], self._stamped)[None]
        rows = CLOCK.seconds(table).tolist()
        items = [_what(i) for i in self.packed.items]
        return [
            StepTime(kernel, node, device, begun, done, released, thread)
            for thread, times in enumerate(rows)
            for (kernel, node, device), (begun, done, released) in zip(items, times, strict=True)
            if thread == 0 or kernel != PYTHON
        ]

    def lines(self) -> list[str]:
        """Each step with its kernel, arguments, rows and barrier; then where the kernels' sources are."""
        steps = [item for item in self.packed.items if isinstance(item, Step)]
        lines = [
            f"step {i} {s.kernel.name} on {s.device}: {len(s.args)} arguments, "
            f"rows {s.rows_times} of word {s.rows_word}" + (", barrier" if s.barrier else "")
            for i, s in enumerate(steps)
        ]
        kernels = {s.kernel.name: s.kernel for s in steps}
        return lines + [f"kernel {name}: {kernel.source}" for name, kernel in kernels.items()]


def _shared(ticks: NDArray[np.int64], is_stamped: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Ticks of all items: those in front of a stamped one divide the time up to it into equal parts."""
    group = np.concatenate(([0], np.cumsum(is_stamped)[:-1]))  # the number of each item's stamp
    stamps = np.flatnonzero(is_stamped)
    begun, done = ticks[stamps[group], 0], ticks[stamps[group], 1]
    size = np.bincount(group)[group]
    place = size - 1 - (stamps[group] - np.arange(len(ticks)))
    edges = [begun + (done - begun) * p // size for p in (place, place + 1)]
    released = np.where(is_stamped, ticks[:, 2], edges[1])
    return np.stack((edges[0], edges[1], released), axis=1)


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
        """Starts a run with these lengths; returns the mark of its times."""
        mark = self._begin(lengths, trace)
        for address, count, python, number in self._ranges:
            if python is None:
                POOL.run(address, count, self._run, self._n_threads)
            else:
                self._run_python(python, Lengths(lengths), number, mark)
        self._end()
        return mark

    def wait(self) -> None:
        """Waits for the end of the last run."""

    def _run_python(self, step: PythonStep, actual: Lengths, number: int, mark: int) -> None:
        begun = read_cycles()
        if not self._block[ABORT]:  # after an abort sources hold anything
            run_python(step, self.packed.addresses, actual)
        if mark != NOTHING:
            done = read_cycles()
            region = self._ring.region(mark, self._n_words)[TRACE_WORDS * number :]
            region[:TRACE_WORDS] = begun, done, done


class StreamProgram(_Recorded):
    """A stream of a simulated device, in a thread of its own; flags order it with the others."""

    def __init__(self, packed: PackedProgram, run_block: NDArray[np.int64], ring: Ring) -> None:
        super().__init__(packed, run_block, ring, 1)
        self._thread: threading.Thread | None = None

    def launch(self, lengths: Mapping[str, int], trace: int = 0) -> int:
        """Starts a run with these lengths; returns the mark of its times."""
        mark = self._begin(lengths, trace)
        args = self.packed.words.ctypes.data, len(self.packed.starts), self._run
        self._thread = threading.Thread(target=run_alone, args=args)
        self._thread.start()
        return mark

    def wait(self) -> None:
        """Waits for the end of the last run."""
        if self._thread is not None:
            self._thread.join()
