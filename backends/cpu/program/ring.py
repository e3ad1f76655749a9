"""The trace of compiled programs: a ring of counter values, and the clock that turns them into seconds."""

import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.program.pool import read_cycles

WORDS: Final = 1 << 15  # 256 KiB, which stay in a core's cache
PROFILE_WORDS: Final = 1 << 19  # where a profile asks for every step of every thread
_TRIES: Final = 9  # of reading both clocks at once; the quickest counts
_ANCHORS: Final = 256
NOTHING: Final = -1  # the mark of a run that was not recorded


class Ring:
    """Counter values of the last runs, one region after the other; the oldest are overwritten.

    A mark is `lap` + the region's first word, which only grows. Who takes a region of n words where it fits just adds n
    to `at`: that is what decode does.
    """

    def __init__(self, words: int = WORDS) -> None:
        self._words = np.zeros(words, np.int64)
        self.size, self.lap, self.at, self._oldest = words, 0, 0, 0
        self.address = self._words.ctypes.data

    @property
    def end(self) -> int:
        """The mark that the next region will have, if it fits."""
        return self.lap + self.at

    def take(self, n: int) -> int:
        """The mark of a region of n words."""
        at = self.at if self.at + n <= self.size else self.wrap(n)
        self.at = at + n
        return self.lap + at

    def wrap(self, n: int) -> int:
        """Starts over, as n words do not fit behind the last region; grows the ring if they would fill a quarter of it.

        Returns 0, the word where the new lap begins.
        """
        self.lap += self.size
        self.at = 0
        if n > self.size // 4:
            self.grow(8 * n)
        return 0

    def grow(self, words: int) -> None:
        """Makes room for so many words; what is recorded is lost."""
        if words <= self.size:
            return
        self._words = np.zeros(words, np.int64)
        self.lap = -(-self.end // words) * words
        self.size, self.at, self.address = words, 0, self._words.ctypes.data
        self._oldest = self.lap

    def region(self, mark: int, n: int) -> NDArray[np.int64]:
        """A region to write to."""
        return self._words[mark % self.size : mark % self.size + n]

    def read(self, mark: int, n: int) -> NDArray[np.int64] | None:
        """What a region holds, or None if it was overwritten."""
        if mark < self._oldest or self.end - mark > self.size:
            return None
        return self.region(mark, n).copy()


class Clock:
    """Seconds of `time.perf_counter` from the cycle counter, by pairs of both that were read at the same moment.

    Between two pairs it interpolates, so that it follows a clock that is slewed.
    """

    def __init__(self) -> None:
        self._ticks: list[int] = []
        self._ns: list[int] = []

    @property
    def is_set(self) -> bool:
        """Whether both clocks were read together before."""
        return bool(self._ticks)

    def anchor(self) -> None:
        """Reads both clocks."""
        tries = []
        for _ in range(_TRIES):
            before, ticks, after = time.perf_counter_ns(), read_cycles(), time.perf_counter_ns()
            tries.append((after - before, ticks, (before + after) // 2))
        _, ticks, ns = min(tries)
        self._ticks.append(ticks)
        self._ns.append(ns)
        if len(self._ticks) > _ANCHORS:
            self._ticks[1:-1], self._ns[1:-1] = self._ticks[2:-1:2], self._ns[2:-1:2]

    def seconds(self, ticks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Times that lie between two pairs; a new one is read where none is late enough."""
        if len(self._ticks) < 2 or (ticks.size and ticks.max() > self._ticks[-1]):
            self.anchor()
        first = self._ticks[0]  # keeps all differences exact in float64
        x = np.array([t - first for t in self._ticks], np.float64)
        y = np.array([n - self._ns[0] for n in self._ns], np.float64)
        return (np.interp(ticks - first, x, y) + self._ns[0]) * 1e-9


CLOCK = Clock()
