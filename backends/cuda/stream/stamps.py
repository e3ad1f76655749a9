"""When the items of a program ran, by events on its stream."""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.driver.signature import KernelError
from graphsched.backends.cuda.stream.queue import Entry, Put
from graphsched.run.trace import THREADS

_TRIES: Final = 5  # of reading both clocks at once; the quickest counts
Seconds = NDArray[np.float64]


class Stamps:
    """Events around the entries of a program; they hold the last run, as a graph records the same ones each time.

    A profile has an event behind each entry. Else there is one on each side of a wait, and entries without an event of
    their own share the time up to the next one.
    """

    def __init__(self, gpu: driver.Gpu, entries: Sequence[Entry], level: int) -> None:
        waits = [i for i, e in enumerate(entries) if e.bound is not None and e.bound.is_wait]
        at = range(len(entries)) if level == THREADS else {len(entries) - 1, *waits, *(i - 1 for i in waits)}
        self._behind = {i: driver.new_event(gpu, timed=True) for i in sorted({-1, *at})}
        shares = np.array([e.bound is None or e.bound.is_wait for e in entries], np.float64)
        self._edges = np.concatenate(([0.0], np.cumsum(shares)))
        self._n = len(entries)

    def around(self, entries: Sequence[Entry]) -> list[Put]:
        """What the entries queue, with the events."""
        out = self._stamp(-1)
        for i, entry in enumerate(entries):
            out += [*entry.puts, *self._stamp(i)]
        return out

    def _stamp(self, i: int) -> list[Put]:
        if i not in self._behind:
            return []
        event = self._behind[i]
        return [lambda stream: driver.stamp(event, stream)]

    def seconds(self, stream: Any, begun: float, ended: float) -> Seconds | None:
        """When each entry began and, last, when all were done: seconds of `time.perf_counter`; None after a fault.

        All of it lies between `begun` and `ended`, which the host saw: the two clocks agree to microseconds only.
        """
        first, *others = self._behind.values()
        try:
            now, event = _anchor(stream)
            start = now - driver.elapsed(first, event)
            at = start + np.array([0.0, *(driver.elapsed(first, e) for e in others)])
        except KernelError:
            return None
        at += max(0.0, begun - at[0]) - max(0.0, at[-1] - ended)
        return self._spread(np.clip(at, begun, ended))

    def _spread(self, at: Seconds) -> Seconds:
        """From the times of events to those of entries: equal parts between two events, none for raising a flag."""
        places = np.array([i + 1 for i in self._behind])
        out = np.empty(self._n + 1)
        out[places] = at
        for a, b in pairwise(places):
            share = self._edges[a : b + 1] - self._edges[a]
            if share[-1]:
                out[a:b] = out[a] + (out[b] - out[a]) * share[:-1] / share[-1]
            else:
                out[a:b] = out[a]
        return out


def _anchor(stream: Any) -> tuple[float, Any]:
    """The host's time at an event, which is recorded on an idle stream."""
    tries = []
    for _ in range(_TRIES):
        before = time.perf_counter()
        event = driver.record(stream, timed=True)
        event.sync()
        after = time.perf_counter()
        tries.append((after - before, (before + after) / 2, event))
    _, now, event = min(tries, key=lambda t: t[0])
    return now, event
