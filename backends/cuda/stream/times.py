"""Times of a program's runs: of the last one, which its events hold, and of a profile's, which were read in time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from graphsched.backends.cuda.stream.queue import Entry
from graphsched.backends.cuda.stream.stamps import Stamps
from graphsched.run.device import StepTime
from graphsched.run.operand import Item
from graphsched.run.trace import THREADS

NOTHING: Final = -1  # the mark of a run that was not recorded
MOST_KEPT: Final = 64  # runs


@dataclass
class _Run:
    """The last run: its mark and level, its events, and between which times of the host it was."""

    mark: int
    trace: int
    stamps: Stamps
    entries: list[Entry]
    begun: float
    ended: float = 0.0


class Times:
    """What a program remembers of when it ran; `stream`: an idle one, to compare the clocks on."""

    def __init__(self, device: str, items: Sequence[Item], stream: Any) -> None:
        self._device, self._items, self._stream = device, items, stream
        self._mark = 0
        self._last: _Run | None = None
        self._kept: dict[int, list[StepTime]] = {}

    def save(self) -> None:
        """Reads the events of a profile's run, which the next run records anew."""
        if self._last is not None and self._last.trace == THREADS:
            self._read(self._last)

    def begin(self, trace: int, stamps: Stamps | None, entries: list[Entry], begun: float) -> int:
        """A run that the host launched at `begun`; its mark."""
        self._last = None
        if stamps is None:
            return NOTHING
        self._mark += 1
        self._last = _Run(self._mark, trace, stamps, entries, begun)
        return self._mark

    def end(self) -> None:
        """The host has waited for the last run."""
        if self._last is not None:
            self._last.ended = time.perf_counter()

    def of(self, mark: int) -> list[StepTime]:
        """The items of a run; nothing if its events were recorded anew."""
        if self._last is not None and self._last.mark == mark:
            self._read(self._last)
        return self._kept.get(mark, [])

    def forget(self) -> None:
        """Lets go of the events."""
        self._last = None

    def _read(self, run: _Run) -> None:
        self._last = None
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        at = run.stamps.seconds(self._stream, run.begun, run.ended)
        if at is None:  # after a fault
            return
        rows = zip(run.entries, self._items, at.tolist(), at[1:].tolist(), strict=False)
        self._kept[run.mark] = [
            StepTime(entry.name, getattr(item, "node", -1), self._device, begun, done, done)
            for entry, item, begun, done in rows
        ]
