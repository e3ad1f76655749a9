"""What one stream of a GPU runs: launches, copies, waits and signals; decode as a CUDA graph."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.driver.signature import KernelError
from graphsched.backends.cuda.launch.lowering import FIXED, At, Launch
from graphsched.backends.cuda.stream.dispatch import Run
from graphsched.backends.cuda.stream.memory import PinnedSpace
from graphsched.backends.cuda.stream.queue import Bound, Entry, Put, between_bounds
from graphsched.backends.cuda.stream.stamps import Stamps
from graphsched.backends.cuda.stream.times import Times
from graphsched.backends.cuda.stream.transfer import Transfer
from graphsched.graph.tensor import Extent
from graphsched.run.device import StepTime
from graphsched.run.operand import Addresses, Item
from graphsched.run.streams import Signal, Wait
from graphsched.run.trace import OFF, THREADS
from graphsched.types.extents import EXTENTS

if TYPE_CHECKING:
    from graphsched.backends.cuda.device import CudaDevice

WORD_BYTES = 4 * len(EXTENTS)  # of the lengths
MOST_KEPT = 64  # combinations of lengths whose launches are kept


@dataclass(frozen=True)
class Ready:
    """All that a run with certain lengths puts on the stream, and its events."""

    puts: list[Put]
    stamps: Stamps | None


class CudaProgram:
    """Items of one stream. Runs with the same lengths repeat what was made for the first."""

    def __init__(
        self, device: "CudaDevice", name: str, stream: Any, items: Sequence[Item], addresses: Addresses
    ) -> None:
        self.name = name  # of the stream
        self._device, self._stream, self._items, self._addresses = device, stream, tuple(items), addresses
        self._host_words = PinnedSpace().allocate(WORD_BYTES).bytes.view(np.int32)
        self._words = device.memory.allocate(WORD_BYTES)
        self._asked: frozenset[str] = frozenset()  # lengths that decide what is queued
        self._made: dict[tuple[int, ...], list[Entry]] = {}
        self._ready: dict[tuple[int, tuple[int, ...]], Ready] = {}
        self._graphs: list[Any] = []
        self._run: Run | None = None
        self._times = Times(device.name, self._items, device.memory.stream)

    @property
    def stream(self) -> Any:
        """The driver's stream that runs it."""
        return self._stream

    @property
    def bounds(self) -> list[Bound]:
        """Its waits and signals in order."""
        return [self._bound(item) for item in self._items if isinstance(item, Signal)]

    def launch(self, lengths: Mapping[str, int], trace: int = OFF) -> int:
        """Queues a run for actual lengths. Returns the mark by which `times` finds it."""
        driver.use(self._device.gpu)
        self._times.save()
        begun = time.perf_counter()
        for i, name in enumerate(EXTENTS):
            self._host_words[i] = lengths.get(name, 0)
        ready, entries = self._queued(lengths, trace)
        if self._device.dispatcher is None:
            for put in ready.puts:
                put(self._stream)
        else:
            self._run = Run(self._stream, ready.puts)
            self._device.dispatcher.start(self._run)
        self._device.started(self)
        return self._times.begin(trace, ready.stamps, entries, begun)

    def _queued(self, lengths: Mapping[str, int], trace: int) -> tuple[Ready, list[Entry]]:
        """What to put on the stream: each launch in the first run with these lengths, in later ones a graph for decode.

        By then every kernel is loaded, which a capture should not have to do.
        """
        is_profile = trace == THREADS
        key = self._key(lengths, is_profile)
        if key not in self._made:
            entries, asked = self.entries(lengths, is_profile)
            if asked != self._asked or len(self._made) >= MOST_KEPT:
                self._forget()
            self._asked = asked
            self._made[self._key(lengths, is_profile)] = entries
            return self._ready_to_run(entries, trace, "off"), entries
        if (trace, key) not in self._ready:
            is_decode = lengths.get("n_tokens", 0) == 1 and self._asked <= set(FIXED)
            mode = self._device.graphs if is_decode else "off"
            self._ready[trace, key] = self._ready_to_run(self._made[key], trace, mode)
        return self._ready[trace, key], self._made[key]

    def _key(self, lengths: Mapping[str, int], is_profile: bool) -> tuple[int, ...]:
        return (int(is_profile), *(lengths.get(n, 0) for n in sorted(self._asked)))

    def _forget(self) -> None:
        for graph in self._graphs:
            driver.discard(graph)
        self._graphs.clear()
        self._made.clear()
        self._ready.clear()

    def entries(self, lengths: Mapping[str, int], apart: bool = False) -> tuple[list[Entry], frozenset[str]]:
        """What each item queues, in running order, and the lengths that it depends on; `apart`: no kernels overlap."""
        at = At(self._addresses, lengths, self._words.address, apart=apart)
        return [self._entry(item, at) for item in self._items], frozenset(at.asked)

    def _entry(self, item: Item, at: At) -> Entry:
        if isinstance(item, Signal):
            return Entry("wait" if isinstance(item, Wait) else "signal", (self._bound(item),))
        if isinstance(item, Transfer):
            nbytes = item.row_bytes * (at.n(item.rows) if isinstance(item.rows, Extent) else 1)
            put = partial(item.send, at(item.result), at(item.source), nbytes)
            return Entry(f"copy {item.work}", (put,) if nbytes else ())
        assert isinstance(item, Launch), f"{item} is not work for a GPU"
        calls = list(item.make(at))
        return Entry(calls[-1].kernel if calls else "", tuple(map(self._device.prepared, calls)))

    def _bound(self, signal: Signal) -> Bound:
        word = self._addresses.flag(signal.flag.number)
        return Bound(signal.flag, word, isinstance(signal, Wait))

    def _ready_to_run(self, entries: Sequence[Entry], trace: int, mode: str) -> Ready:
        words = partial(driver.copy_up, self._words.address, self._host_words.ctypes.data, WORD_BYTES)
        stamps = Stamps(self._device.gpu, entries, trace) if trace and entries else None
        puts = [put for e in entries for put in e.puts] if stamps is None else stamps.around(entries)
        return Ready(self._in_graphs([words, *puts], mode, trace == THREADS), stamps)

    def _in_graphs(self, puts: list[Put], mode: str, is_profile: bool) -> list[Put]:
        if mode == "off":
            return puts
        try:
            if mode == "whole" and self._device.dispatcher is None:
                return [self._graph(puts)]
            return between_bounds(puts, self._graph)
        except KernelError:
            if is_profile:  # an event between any two kernels may be more than a driver captures
                return puts
            if mode == "split":
                raise
        self._device.graphs = "split"  # a driver that does not capture waits for words
        return self._in_graphs(puts, "split", is_profile)

    def _graph(self, puts: Sequence[Put]) -> Put:
        def work(stream: Any) -> None:
            for put in puts:
                put(stream)

        self._graphs.append(driver.captured(self._stream, work))
        return partial(driver.replay, self._graphs[-1])

    def release(self) -> None:
        """Raises every flag: after an abort or a fault nobody else will."""
        if self._addresses.flags is not None:
            self._addresses.flags.bytes[:] = 1

    def wait(self) -> None:
        """Returns when the run has ended. KernelError, with the device's name, if it failed."""
        if self._device.aborted:
            self.release()
        try:
            self._until_queued()
            self._stream.sync()
        except Exception as e:
            raise driver.fault(self._device.name, e) from None
        finally:
            self._device.ended(self)
            self._times.end()

    def _until_queued(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.ended.wait()
            if run.error is not None:
                raise run.error

    def times(self, mark: int) -> list[StepTime]:
        """Of the last run; of a profile's last runs, too."""
        return self._times.of(mark)

    def lines(self) -> list[str]:
        """Its items; their kernels are chosen when lengths are known."""
        return [f"step {i} {type(item).__name__} on {self.name}" for i, item in enumerate(self._items)]

    def close(self) -> None:
        """Gives up graphs and events."""
        self._forget()
        self._times.forget()
