"""What one stream of a GPU runs: launches, copies, waits and signals; decode as a CUDA graph."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.lowering import FIXED, LENGTHS, At, Launch
from graphsched.backends.cuda.signature import KernelError
from graphsched.backends.cuda.transfer import Transfer
from graphsched.device import StepTime
from graphsched.operand import Item, Places
from graphsched.streams import Signal, Wait
from graphsched.tensor import Extent

if TYPE_CHECKING:
    from graphsched.backends.cuda.device import CudaDevice

Queue = Callable[[Any], None]  # puts work on a stream
WORD_BYTES = 32  # of the lengths
MOST_KEPT = 64  # combinations of lengths whose launches are kept


@dataclass(frozen=True)
class Queued:
    """One entry of a program, ready for a stream; `is_word`: it waits for or raises a word of the host's memory."""

    put: Queue
    is_word: bool = False


class CudaProgram:
    """Items of one stream. Runs with the same lengths repeat what was made for the first."""

    def __init__(
        self, device: "CudaDevice", name: str, stream: Any, items: Sequence[Item], places: Places
    ) -> None:
        self.name = name  # of the stream
        self._device, self._stream, self._items, self._places = device, stream, tuple(items), places
        self._host_words = driver.host_alloc(WORD_BYTES).view(np.int32)
        self._words = device.memory.allocate(WORD_BYTES)
        self._asked: frozenset[str] = frozenset()  # lengths that decide what is queued
        self._made: dict[tuple[int, ...], list[Queued]] = {}
        self._ready: dict[tuple[int, ...], list[Queue]] = {}
        self._graphs: list[Any] = []

    @property
    def stream(self) -> Any:
        return self._stream

    def launch(self, lengths: Mapping[str, int], trace: int = 0) -> int:
        driver.use(self._device.gpu)
        for i, name in enumerate(LENGTHS):
            self._host_words[i] = lengths.get(name, 0)
        for put in self._queued(lengths):
            put(self._stream)
        self._device.started(self)
        return -1  # nothing is recorded yet

    def _queued(self, lengths: Mapping[str, int]) -> list[Queue]:
        """What to put on the stream: each launch in the first run with these lengths, in later ones a graph for decode.

        By then every kernel is loaded, which a capture should not have to do.
        """
        key = self._key(lengths)
        if key not in self._made:
            entries, asked = self.entries(lengths)
            if asked != self._asked or len(self._made) >= MOST_KEPT:
                self._forget()
            self._asked = asked
            self._made[self._key(lengths)] = entries
            return [e.put for e in entries]
        if key not in self._ready:
            is_decode = lengths.get("n_tokens", 0) == 1 and self._asked <= set(FIXED)
            self._ready[key] = self._in_graphs(self._made[key], self._device.graphs if is_decode else "off")
        return self._ready[key]

    def _key(self, lengths: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(lengths[n] for n in sorted(self._asked))

    def _forget(self) -> None:
        for graph in self._graphs:
            driver.discard(graph)
        self._graphs.clear()
        self._made.clear()
        self._ready.clear()

    def entries(self, lengths: Mapping[str, int]) -> tuple[list[Queued], frozenset[str]]:
        """Everything in running order, and the lengths that it depends on."""
        at = At(self._places, lengths, self._words.address)
        words = partial(driver.copy_up, self._words.address, self._host_words.ctypes.data, WORD_BYTES)
        out = [Queued(words)]
        for item in self._items:
            out += self._entry(item, at)
        return out, frozenset(at.asked)

    def _entry(self, item: Item, at: At) -> list[Queued]:
        if isinstance(item, Signal):
            put = driver.await_word if isinstance(item, Wait) else driver.raise_word
            return [Queued(partial(put, self._places.flag(item.flag.number)), True)]
        if isinstance(item, Transfer):
            nbytes = item.row_bytes * (at.n(item.rows) if isinstance(item.rows, Extent) else 1)
            return [Queued(partial(item.send, at(item.result), at(item.source), nbytes))] if nbytes else []
        assert isinstance(item, Launch), f"{item} is not work for a GPU"
        return [Queued(self._device.prepared(call)) for call in item.make(at)]

    def _in_graphs(self, entries: list[Queued], mode: str) -> list[Queue]:
        if mode == "off":
            return [e.put for e in entries]
        if mode == "whole":
            try:
                return [self._graph([e.put for e in entries])]
            except KernelError:  # a driver that does not capture waits for words
                self._device.graphs = "split"
        out: list[Queue] = []
        part: list[Queue] = []
        for e in entries:
            if e.is_word and part:
                out.append(self._graph(part))
                part = []
            if e.is_word:
                out.append(e.put)
            else:
                part.append(e.put)
        return [*out, self._graph(part)] if part else out

    def _graph(self, puts: Sequence[Queue]) -> Queue:
        def work(stream: Any) -> None:
            for put in puts:
                put(stream)

        self._graphs.append(driver.captured(self._stream, work))
        return partial(driver.replay, self._graphs[-1])

    def release(self) -> None:
        """Raises every flag: after an abort or a fault nobody else will."""
        if self._places.flags is not None:
            self._places.flags.bytes[:] = 1

    def wait(self) -> None:
        if self._device.aborted:
            self.release()
        try:
            self._stream.sync()
        except Exception as e:
            raise driver.fault(self._device.name, e) from None
        finally:
            self._device.ended(self)

    def times(self, mark: int) -> list[StepTime]:
        return []

    def close(self) -> None:
        self._forget()
