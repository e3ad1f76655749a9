"""The trace: events on one clock, and the ring to which spans are written during a run.

While a session runs, a span is a tuple in a ring, and the times of steps are counter values that compiled code leaves
in a ring of its own. They become events only when someone reads them (graphsched/run/trace_read.py).
"""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any, Final

from graphsched.schedule.scheduler import Schedule

OFF, ON, THREADS = range(3)  # nothing; one lane per stream; a lane for each of the host's threads
SPANS: Final = 1 << 12  # of the ring: once it is full, a token allocates nothing that stays
HOST_LANE: Final = "Python"
# Kinds of events. Python's: load, build (graphs), place (homes of weights), plan (schedules, memory, packing), inputs,
# outputs, launch, sampling, detokenise, host;
# a server's: slots (who gets one), idle. A stream's: step, copy, wait, wake (a thread that begins), barrier.
RUN: Final = "run"
EVAL: Final = "eval"


@dataclass(frozen=True, slots=True)
class Event:
    """Something on a lane from `begin` to `end`, in nanoseconds of one clock.

    A step has the op, the label of its result, the node's number and layer (-1: none), and the result's type. A copy
    has bytes, `up` (to a device) or `down`, as `peer` the device or host that gets it, and as `node` the first one
    that reads it. A wait has as `peer` the lane that it waited for. `run` counts the runs of the trace (-1: none),
    `kernel` is what a device ran for it (empty in predictions).
    """

    kind: str
    lane: str
    name: str
    begin: int
    end: int
    op: str = ""
    label: str = ""
    device: str = ""
    node: int = -1
    layer: int = -1
    type: str = ""
    nbytes: float = 0.0
    direction: str = ""
    peer: str = ""
    run: int = -1
    kernel: str = ""

    @property
    def ns(self) -> int:
        """Duration in nanoseconds."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One run of a schedule with actual lengths."""

    schedule: Schedule
    lengths: Mapping[str, int]
    begin: int
    end: int


@dataclass(frozen=True)
class Trace:
    """Events in order of their lanes' work, and the runs that they belong to."""

    events: tuple[Event, ...]
    runs: tuple[Run, ...]


class Recorder:
    """Spans of a session: (kind, begin, end, details), in ns of `perf_counter`; the oldest are dropped."""

    def __init__(self, level: int = ON) -> None:
        self.level = level
        self.spans: deque[tuple[Any, ...]] = deque(maxlen=SPANS)
        self.last = 0  # when the last span ended that was noted here
        self.compile_ns = 0  # spent compiling kernels

    def since(self, kind: str, begin: int = 0) -> None:
        """Notes a span that ends now, and began then, or where the one before it ended."""
        if self.level:
            self.last, before = perf_counter_ns(), self.last
            self.spans.append((kind, begin or before, self.last))

    def evaluated(self, begin: int) -> None:
        """Notes that runs were prepared, run and read from then until now."""
        if self.level:
            self.last = perf_counter_ns()
            self.spans.append((EVAL, begin, self.last))

    def compiled(self, begin: int) -> None:
        """Notes that kernels were compiled from then until now."""
        self.compile_ns += perf_counter_ns() - begin
        self.since("compile", begin)

    @contextmanager
    def recording(self, level: int) -> Iterator[list[tuple[Any, ...]]]:
        """Records at another level; what was noted is in the list afterwards, and in the ring if that is on."""
        noted: list[tuple[Any, ...]] = []
        outer, before = self.spans, self.level
        self.spans, self.level = deque(maxlen=SPANS), level
        try:
            yield noted
        finally:
            noted += self.spans
            self.spans, self.level = outer, before
            if before:
                outer.extend(noted)

    def take(self) -> list[tuple[Any, ...]]:
        """All spans, which are then forgotten."""
        taken = list(self.spans)
        self.spans.clear()
        return taken
