"""Executables: schedules ready to run, with their outputs and traces."""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from numpy.typing import NDArray

from graphsched.graph.tensor import length_word
from graphsched.run.device import Program
from graphsched.run.operand import Addresses, Item, Operand, PythonStep
from graphsched.run.streams import Signal, Wait
from graphsched.run.trace import OFF, RUN, Recorder
from graphsched.schedule.scheduler import Schedule
from graphsched.types.devices import HOST

Array = NDArray[Any]


@dataclass(frozen=True)
class Tag:
    """How a trace shows an item of a stream. issue: its number, -1 for flags. peer: the stream that a wait is for."""

    issue: int = -1
    peer: str = ""
    is_python: bool = False
    after_python: bool = False


def tagged(streams: Mapping[str, list[Item]], issues: Mapping[int, int]) -> dict[str, tuple[Tag, ...]]:
    """The tags of each stream's items; `issues` by the items' ids."""
    # A wait knows its flag only; reports name the stream that raises it.
    raisers = {
        item.flag: stream
        for stream, own in streams.items()
        for item in own
        if isinstance(item, Signal) and not isinstance(item, Wait)
    }
    return {
        stream: tuple(
            Tag(
                issues.get(id(item), -1),
                raisers[item.flag] if isinstance(item, Wait) else "",
                isinstance(item, PythonStep),
                isinstance(before, PythonStep),
            )
            for before, item in zip((None, *own), own, strict=False)
        )
        for stream, own in streams.items()
    }


class Executable:
    """A schedule ready to run: one program per stream, the items in it, and the memory that they use."""

    def __init__(
        self,
        recorder: Recorder,
        poison: bool,
        schedule: Schedule,
        addresses: Addresses,
        streams: Mapping[str, list[Item]],
        programs: Mapping[str, Program],
        results: list[Operand],
        tags: Mapping[str, tuple[Tag, ...]],
    ) -> None:
        self.schedule, self.addresses, self.programs, self.tags = schedule, addresses, programs, tags
        self.recorder, self.streams, self._poison = recorder, streams, poison
        # What every run needs, resolved once: decode is a few Python statements.
        self._others = [p for stream, p in programs.items() if stream != HOST]
        self.order = [stream for stream in programs if stream != HOST] + [HOST] * (HOST in programs)
        self._order = [programs[stream] for stream in self.order]
        self._results = [(o, length_word((*o.type.shape, 1)[0])) for o in results]
        have_codes = any(o.type.dtype.numpy is None for o in results)  # which are read anew each time
        self._views = [] if have_codes else self._read()
        self._lengths: Mapping[str, int] = {}

    @property
    def outputs(self) -> tuple[Array, ...]:
        """Results of the last run, cut to its actual lengths; valid until the runtime's next run."""
        lengths = self._lengths
        return tuple([v[: lengths[w]] if w in lengths else v for v, w in self._views or self._read()])

    def _read(self) -> list[tuple[Array, str]]:
        """The values of each result at its capacity, and the word of its length."""
        return [(self.addresses.values(o, tuple(map(int, o.type.shape))), w) for o, w in self._results]

    def run(self, lengths: Mapping[str, int]) -> None:
        """Runs with actual lengths (`n_tokens`, `n_outputs`, `n_kv`) up to the graph's capacities."""
        recorder = self.recorder
        if level := recorder.level:
            begin = perf_counter_ns()
            marks = self._run(lengths, level)
            end = perf_counter_ns() if self._others else 0  # else it is where the host's last step ends
            recorder.spans.append((RUN, begin, end, self, lengths, marks))
        else:
            self._run(lengths, OFF)

    def _run(self, lengths: Mapping[str, int], level: int) -> list[int]:
        """Runs; the marks by which programs find the times of this run."""
        self._lengths = lengths
        if self._poison:
            for arena in self.addresses.arenas.values():
                arena.fill(0xFF)  # NaN in every float type, -1 in integers
        if self.addresses.flags is not None:
            self.addresses.flags.bytes[:] = 0
        marks = [program.launch(lengths, level) for program in self._order]
        for program in self._others:
            program.wait()
        return marks
