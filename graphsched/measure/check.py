"""A plan beside a run of it: seconds of each op, copy, wait and barrier, as predicted and as measured."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import Any, Final

from graphsched.measure.profile import behind
from graphsched.measure.readers import Reader, reader_of, some_tokens
from graphsched.predict.plan import Plan
from graphsched.predict.sim_trace import planned_trace
from graphsched.run.trace import ON, Event, Trace
from graphsched.run.trace_read import QUANTIZE
from graphsched.session.session import Session
from graphsched.types.devices import HOST

RUNS: Final = 12  # of single tokens, of which the median counts
PROMPTS: Final = 3
PYTHON: Final = "Python"
Key = tuple[str, str]  # device or lane, what
WHOLE: Final[Key] = ("", "")
Seconds = Mapping[Key, float]


@dataclass(frozen=True)
class Compared:
    """A row: what a device or lane does, and for how many seconds; barriers: part of what was measured."""

    lane: str
    what: str
    predicted: float
    measured: float
    barriers: float = 0.0

    @property
    def error(self) -> float | None:
        """How much the prediction is above what was measured, as a share of that; None where nothing was measured."""
        return self.predicted / self.measured - 1 if self.measured else None

    def as_json(self) -> dict[str, Any]:
        """Plain data, seconds."""
        return {**self.__dict__, "error": self.error}


@dataclass(frozen=True)
class Check:
    """The rows of all lanes, longest first, and the whole run."""

    rows: tuple[Compared, ...]
    wall: Compared
    n_tokens: int

    def as_json(self) -> dict[str, Any]:
        """Plain data, seconds."""
        rows = [row.as_json() for row in self.rows]
        return {"n_tokens": self.n_tokens, "rows": rows, "wall": self.wall.as_json()}


def check(session: Session, plans: Sequence[Plan], n_past: int) -> Check:
    """Runs what was planned behind n_past tokens of each sequence, several times, and lays both side by side.

    plans: all micro-batches of a prompt, or the one plan of a token of each sequence.
    """
    traces = [planned_trace(plan) for plan in plans]
    predicted, _ = _seconds(behind(traces), sum(t.runs[-1].end for t in traces))
    n, n_sequences = sum(plan.lengths["n_tokens"] for plan in plans), plans[0].n_sequences
    runs = _runs(session, n // n_sequences, n_past, RUNS if n == n_sequences else PROMPTS)
    measured, barriers = sorted(runs, key=lambda run: run[0][WHOLE])[len(runs) // 2]
    rows = {
        key: Compared(*key, predicted.get(key, 0.0), measured.get(key, 0.0), barriers.get(key, 0.0))
        for key in {**measured, **predicted}
    }
    wall = rows.pop(WHOLE)
    return Check(tuple(sorted(rows.values(), key=lambda r: -max(r.measured, r.predicted))), wall, n)


def prompt_seconds(session: Session, n: int) -> float:
    """Seconds of a prompt of n tokens in an empty context: the median of a few runs behind one that does not count."""
    runs = _runs(session, n, 0, PROMPTS)
    return median(seconds[WHOLE] for seconds, _ in runs)


def _runs(session: Session, n: int, n_past: int, repeats: int) -> list[tuple[Seconds, Seconds]]:
    """Runs of n tokens of each sequence behind n_past, behind one that does not count."""
    session.recorder.level = ON
    tokens = some_tokens(session, n_past + n, session.options.n_parallel)
    with reader_of(session) as reader:
        if n_past:
            reader.read(reader.prepared(tokens[:, :n_past]))
        given = reader.prepared(tokens[:, n_past:])
        return [_run(session, reader, given, n_past) for _ in range(repeats + 1)][1:]


def _run(session: Session, reader: Reader, given: Any, n_past: int) -> tuple[Seconds, Seconds]:
    reader.rewind(n_past)
    session.take_trace()
    begin = perf_counter_ns()
    reader.read(given)
    wall = perf_counter_ns() - begin
    return _seconds(session.take_trace(), wall)


def _seconds(trace: Trace, wall: int) -> tuple[Seconds, Seconds]:
    """By row: seconds, and those of them in barriers. What the host's lane does not do is Python's."""
    found: dict[Key, float] = defaultdict(float)
    barriers: dict[Key, float] = defaultdict(float)
    last: dict[str, Key] = {}
    starts: dict[str, float] = defaultdict(float)  # of steps that are still to come, in predictions
    for event in trace.events:
        seconds = event.ns * 1e-9
        if event.kind == "launch" and event.lane == event.device:
            starts[event.lane] += seconds
        elif event.kind in ("step", "copy"):
            last[event.lane] = key = (event.device, _op(event, trace))
            found[key] += seconds + starts.pop(event.lane, 0.0)
        elif event.kind == "wait":
            found[event.lane, event.name] += seconds
        elif event.kind == "barrier" and event.lane in last:
            found[last[event.lane]] += seconds
            barriers[last[event.lane]] += seconds
    found[HOST, PYTHON] = wall * 1e-9 - sum(s for (lane, _), s in found.items() if lane == HOST)
    found[WHOLE] = wall * 1e-9
    return found, barriers


def _op(event: Event, trace: Trace) -> str:
    """The op of an event's node; activations in blocks are a part of the product that reads them."""
    if event.op != QUANTIZE:
        return event.op
    return trace.runs[event.run].schedule.graph.nodes[event.node].op.name
