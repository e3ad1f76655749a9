"""Bounds between streams kept by the host, for devices whose streams cannot wait for words of host memory.

A thread queues each stream's work up to the next wait. It queues what follows when the flag is up, or, if a stream of
the same device raises it, behind an event of that stream; it raises flags for others when their events are reached.
"""

import threading
import time
from collections.abc import Callable, Sequence
from ctypes import c_uint32
from typing import Any, Final

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.stream.queue import Bound, Put
from graphsched.run.streams import Flag

SPINS: Final = 200  # rounds without progress before the thread naps
NAP: Final = 2e-5  # seconds


class Run:
    """One run of a stream's program: how far it is queued, and the error that ended it."""

    def __init__(self, stream: Any, puts: Sequence[Put]) -> None:
        self.stream, self.puts, self.at = stream, puts, 0
        self.ended = threading.Event()
        self.error: Exception | None = None


class Dispatcher:
    """The thread of one device, which works while programs run."""

    def __init__(self, gpu: driver.Gpu, failed: Callable[[], None]) -> None:
        self._gpu, self._failed = gpu, failed
        self.raised: set[Flag] = set()  # by streams of this device
        self.awaited: set[Flag] = set()
        self._events: dict[Flag, Any] = {}
        self._recorded: set[Flag] = set()  # in this run, and not awaited yet
        self._pending: list[Bound] = []  # whose words are raised when their events are reached
        self._runs: list[Run] = []
        self._work = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="cuda dispatch", daemon=True)
        self._thread.start()

    def knows(self, bounds: Sequence[Bound]) -> None:
        """Bounds of one stream of this device; all streams are known before any runs."""
        self.raised |= {b.flag for b in bounds if not b.is_wait}
        self.awaited |= {b.flag for b in bounds if b.is_wait}

    def start(self, run: Run) -> None:
        """Queues a run; returns at once."""
        with self._work:
            self._runs.append(run)
            self._work.notify()

    def close(self) -> None:
        """Ends the thread when what it has is queued."""
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()
        self._events.clear()

    def _loop(self) -> None:
        driver.use(self._gpu)
        while True:
            with self._work:
                self._work.wait_for(lambda: self._runs or self._closed)
                if self._closed:
                    return
            try:
                self._until_queued()
            except Exception as e:  # of the driver, whatever its type: every stream of the device has failed
                self._give_up(e)

    def _until_queued(self) -> None:
        idle = 0
        while self._runs:
            idle = 0 if self._advance() else idle + 1
            if idle > SPINS:
                for run in self._runs:
                    driver.finished(run.stream)  # KernelError after a fault
            time.sleep(NAP if idle > SPINS else 0)

    def _advance(self) -> bool:
        """Goes on wherever that is possible; whether it was."""
        done = [b for b in self._pending if driver.reached(self._events[b.flag])]
        for bound in done:
            c_uint32.from_address(bound.word).value = 1
        self._pending = [b for b in self._pending if b not in done]
        moved = [self._queued(run) for run in tuple(self._runs)]
        self._end_those_queued()
        return bool(done) or any(moved)

    def _queued(self, run: Run) -> bool:
        """Queues as much as can be; whether that was anything."""
        before = run.at
        while run.at < len(run.puts):
            put = run.puts[run.at]
            if not isinstance(put, Bound):
                put(run.stream)
            elif not put.is_wait:
                self._raise(put, run.stream)
            elif not self._passes(put, run.stream):
                break
            run.at += 1
        return run.at > before

    def _raise(self, bound: Bound, stream: Any) -> None:
        if bound.flag not in self._events:
            self._events[bound.flag] = driver.new_event(self._gpu)
        driver.stamp(self._events[bound.flag], stream)
        if bound.flag in self.awaited:
            self._recorded.add(bound.flag)
        else:
            self._pending.append(bound)

    def _passes(self, bound: Bound, stream: Any) -> bool:
        if bound.flag not in self.raised:
            return bool(c_uint32.from_address(bound.word).value)
        if bound.flag not in self._recorded:
            return False
        self._recorded.discard(bound.flag)
        stream.wait(self._events[bound.flag])
        return True

    def _end_those_queued(self) -> None:
        """A run ends when all is queued; the last one only when no flag is left to raise."""
        ended = [r for r in self._runs if r.at == len(r.puts)]
        if self._pending and len(ended) == len(self._runs):
            ended = []
        with self._work:
            self._runs = [r for r in self._runs if r not in ended]
        for run in ended:
            run.ended.set()

    def _give_up(self, error: Exception) -> None:
        with self._work:
            runs, self._runs = self._runs, []
        self._pending.clear()
        self._recorded.clear()
        for run in runs:
            run.error = error
            run.ended.set()
        self._failed()
