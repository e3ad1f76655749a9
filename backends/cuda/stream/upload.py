"""Weights on their way into a GPU: read ahead, packed by threads into page-locked slots, sent while others are packed.

Memory does not grow with the model: `SLOTS` of `SLOT` bytes for each GPU, and as many file bytes read ahead.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.packing.pieces import Packing, Run
from graphsched.backends.cuda.packing.threads import checked, start

Raw = NDArray[np.uint8]
SLOT = 2 << 20  # bytes: enough for the link's full speed
SLOTS = 16  # more than there are threads, so that some are sent while all threads pack


class Event(Protocol):
    def sync(self) -> None:
        """Returns when all that was sent before is there."""


class Link(Protocol):
    """The way to a GPU's memory."""

    def send(self, to: int, host: int, nbytes: int) -> None:
        """Copies page-locked memory, after all that was sent before; later."""

    def record(self) -> Event:
        """An event behind what was sent."""

    def sync(self) -> None:
        """Returns when all that was sent is there."""


@dataclass(slots=True)
class Slot:
    """Page-locked memory that copies are sent from, and the event behind the last one."""

    bytes: Raw
    sent: Event | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A piece that a thread packs, and where it is sent."""

    packed: "Future[None]"
    slot: Slot
    runs: tuple[Run, ...]
    to: int


class Uploads:
    """Sends weights over one link, in order; only one thread may call it. allocate: for the slots, on first use."""

    def __init__(self, link: Link, allocate: Callable[[int], Raw]) -> None:
        self._link, self._allocate = link, allocate
        self._slots = deque[Slot]()  # in the order in which they are used
        self._waiting = deque[Waiting]()

    def send(self, to: int, raw: Raw, how: Packing) -> None:
        """Packs file bytes `raw` to address `to`. Under way when this returns: `settle` says when it is done."""
        checked(how, raw)
        how.compile()
        for piece in how.pieces(SLOT):
            slot = self._free_slot()
            packed = start(how, piece, raw, slot.bytes, staged=True)
            self._waiting.append(Waiting(packed, slot, piece.runs, to))
            while self._waiting and self._waiting[0].packed.done():
                self._forward()

    def settle(self) -> None:
        """Returns when all is there."""
        while self._waiting:
            self._forward()
        self._link.sync()

    def close(self) -> None:
        """Returns when no thread writes into the slots any more, whatever was under way."""
        for waiting in self._waiting:
            if not waiting.packed.cancel():
                waiting.packed.exception()
        self._waiting.clear()
        self._slots.clear()

    def _free_slot(self) -> Slot:
        if not self._slots:
            self._slots.extend(Slot(piece) for piece in self._allocate(SLOTS * SLOT).reshape(SLOTS, SLOT))
        if len(self._waiting) == SLOTS:
            self._forward()
        slot = self._slots[0]
        self._slots.rotate(-1)
        if slot.sent is not None:
            slot.sent.sync()
        return slot

    def _forward(self) -> None:
        """Sends what was packed first, once it is."""
        waiting = self._waiting.popleft()
        waiting.packed.result()
        host = waiting.slot.bytes.ctypes.data
        for run in waiting.runs:
            if size := run.nbytes + run.zeros:
                self._link.send(waiting.to + run.at, host + run.staged, size)
        waiting.slot.sent = self._link.record()
