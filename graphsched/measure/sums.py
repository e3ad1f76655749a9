"""Sums over a trace: by device and op, by result with layers added up, by layer, by copied tensor, by who waited."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

from graphsched.graph.cost import Cost, cost_of
from graphsched.graph.opdef import OPS
from graphsched.measure.owners import owners, shown
from graphsched.run.spans import Span
from graphsched.run.trace import Event, Run, Trace
from graphsched.run.trace_read import QUANTIZE
from graphsched.types.devices import HOST


@dataclass
class Row:
    """Nanoseconds of each repetition, and what was moved and computed in all of them together.

    ops: operations by kind of arithmetic. busy: of an overhead row, time in which other rows own instants, too.
    """

    ns: list[int]
    busy: list[int]
    nbytes: float = 0.0
    ops: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    count: int = 0

    @property
    def mean(self) -> float:
        """Mean nanoseconds of a repetition."""
        return mean(self.ns)


Rows = dict[tuple[str, str], Row]


@dataclass
class Sums:
    """Rows by (device, name). `overhead` rows add up to `wall` in every repetition.

    ops: by op. labels: products, by result. layers: by number of the layer. copies: by (direction and device, tensor).
    waits: (who, for whom). threads: (lane, what). lost: runs whose steps were overwritten before they were read.
    """

    wall: list[int]
    ops: Rows
    labels: Rows
    layers: Rows
    copies: Rows
    waits: Rows
    threads: Rows
    overhead: Rows
    devices: tuple[str, ...] = (HOST,)
    lost: int = 0


def sum_up(repetitions: Sequence[tuple[Trace, Sequence[Span]]], devices: tuple[str, ...]) -> Sums:
    """The sums of repetitions, each a trace and the spans in which time counts."""
    n = len(repetitions)

    def rows() -> Rows:
        return defaultdict(lambda: Row([0] * n, [0] * n))

    sums = Sums([0] * n, rows(), rows(), rows(), rows(), rows(), rows(), rows(), devices)
    for i, (trace, wall) in enumerate(repetitions):
        sums.wall[i] = sum(end - begin for begin, end in wall)
        _add_events(sums, trace, i)
        for name, owned in shown(owners(trace.events, wall, devices)).items():
            row = sums.overhead["", name]
            row.ns[i] += owned.ns
            row.busy[i] += owned.busy
    return sums


def _add_events(sums: Sums, trace: Trace, i: int) -> None:
    costs = _Costs(trace)
    products = {number.name for number, declared in OPS.items() if declared.traits.product}
    seen: set[tuple[int, int]] = set()  # a node costs once a run, however many steps it has
    for event in trace.events:
        name = event.lane if event.device == HOST else event.device
        if event.kind in ("step", "barrier", "wake") and event.device in (HOST, ""):
            _add(sums.threads, (name, _THREAD_ROWS[event.kind]), event, i)
        if event.kind == "wait":
            _add(sums.waits, (event.lane, event.peer), event, i)
        elif event.kind == "copy":
            _add(sums.copies, (event.lane, event.label), event, i).nbytes += event.nbytes
            _add(sums.ops, (event.lane, event.op), event, i).nbytes += event.nbytes
        elif event.kind == "step" and (event.device != HOST or event.lane == HOST):
            cost = None
            if event.op != QUANTIZE and (event.run, event.node) not in seen:
                seen.add((event.run, event.node))
                cost = costs.of(event)
            _add_step(sums, event, i, cost)
            if event.op in products:
                _add(sums.labels, (event.device, event.label), event, i, cost)
    sums.lost += len(trace.runs) - len({e.run for e in trace.events if e.kind in ("step", "copy")})


_THREAD_ROWS = {"step": "compute", "barrier": "barriers", "wake": "wake-up"}


def _add_step(sums: Sums, event: Event, i: int, cost: Cost | None) -> None:
    _add(sums.ops, (event.device, event.op), event, i, cost)
    if event.layer >= 0:
        _add(sums.layers, (event.device, str(event.layer)), event, i)


def _add(rows: Rows, key: tuple[str, str], event: Event, i: int, cost: Cost | None = None) -> Row:
    row = rows[key]
    row.ns[i] += event.ns
    row.count += 1
    if cost is not None:
        row.nbytes += cost.nbytes
        row.ops[cost.kind] += cost.flops
    return row


@dataclass
class _Costs:
    """Costs of nodes, cached; runs of one schedule with slightly different lengths share their mean."""

    trace: Trace
    known: dict[Hashable, Cost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        groups: dict[Hashable, list[Run]] = defaultdict(list)
        for run in self.trace.runs:
            groups[_group(run)].append(run)
        self.lengths = {key: _mean_lengths(runs) for key, runs in groups.items()}

    def of(self, event: Event) -> Cost:
        run = self.trace.runs[event.run]
        group = _group(run)
        key = group, event.node
        if key not in self.known:
            self.known[key] = cost_of(run.schedule.graph.nodes[event.node], self.lengths[group])
        return self.known[key]


def _group(run: Run) -> Hashable:
    return id(run.schedule), run.lengths.get("n_tokens")  # copies of sequences have none


def _mean_lengths(runs: Iterable[Run]) -> Mapping[str, int]:
    """Costs are linear in the number of cells in use, so that the mean length has the mean cost."""
    each = [run.lengths for run in runs]
    return {name: round(mean(lengths[name] for lengths in each)) for name in each[0]}
