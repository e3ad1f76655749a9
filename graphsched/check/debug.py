"""GRAPHSCHED_DEBUG=1 to 4: plans and runs of a session print themselves, each level more than the one below."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from graphsched import env
from graphsched.graph.cost import cost_of
from graphsched.graph.graph import Graph
from graphsched.run.device import is_simulated
from graphsched.run.executable import Executable
from graphsched.run.operand import Buffer
from graphsched.run.runnable import PlanFactory, Runnable
from graphsched.run.trace import HOST_LANE, THREADS, Event, Run, Trace
from graphsched.run.trace_read import read
from graphsched.schedule.scheduler import Schedule
from graphsched.types.devices import HOST


class Logged:
    """An executable that prints, after each run, when each step ran."""

    def __init__(self, executable: Executable, say: Callable[[str], None]) -> None:
        self._executable, self._say = executable, say

    @property
    def outputs(self) -> tuple[NDArray[Any], ...]:
        """The arrays that the last run wrote, one per output of the graph."""
        return self._executable.outputs

    def run(self, lengths: Mapping[str, int]) -> None:
        """Runs with actual lengths, and prints a line per step."""
        # The recorder may be off in the session: this run is recorded all the same.
        with self._executable.recorder.recording(THREADS) as spans:
            self._executable.run(lengths)
        for line in run_lines(read(spans)):
            self._say(line)


def instrumented(graph: Graph, factory: PlanFactory) -> Runnable:
    """The executable of a graph, with the checks and logs that environment variables ask for; plain by default."""
    schedule = factory.schedule(graph)
    executable = factory.compile(schedule)
    if level := env.debug():
        for line in plan_lines(schedule, executable, level):
            _say(line)
    runnable: Runnable = Logged(executable, _say) if level >= 2 else executable
    if env.validate():
        from graphsched.check.validate import validated  # on use, as most processes check nothing

        runnable = validated(runnable, executable, graph, factory)
    return runnable


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def plan_lines(schedule: Schedule, executable: Executable, level: int) -> list[str]:
    """A plan in one line; from level 3 its nodes with their causes, and its buffers; from 4 its kernels."""
    copies = [c for split in schedule.splits for c in split.inputs]
    nbytes = sum(c.tensor.type.nbytes for c in copies)
    tokens = next((int(n.shape[0]) for n in schedule.graph.outputs if n.shape), 0)
    arenas = executable.addresses.plans
    sizes = ", ".join(f"{device} {arena.nbytes / 2**20:.2f} MiB" for device, arena in arenas.items())
    nodes = len(schedule.graph.nodes)
    lines = [
        f"plan of {nodes} nodes, up to {tokens} outputs: {len(schedule.splits)} splits, "
        f"{len(copies)} copies of {nbytes / 2**20:.2f} MiB at most; arenas {sizes or 'none'}"
    ]
    if level >= 3:
        lines += schedule.dump().splitlines()
        for device, arena in arenas.items():
            ends = sorted(arena.offsets.items(), key=lambda item: item[1])
            lines += [
                f"buffer {device} {at:>10} {b.nbytes:>10} {b.name}" for b, at in ends if isinstance(b, Buffer)
            ]
    if level >= 4:
        lines += [line for program in executable.programs.values() for line in program.lines()]
    return lines


def run_lines(trace: Trace) -> list[str]:
    """Each step of the runs of a trace: when it began, how long it took, and the bandwidth that it reached.

    All times are measured on this machine: of a simulated device they are those of the CPU that computes for it.
    """
    return [line for number, run in enumerate(trace.runs) for line in _run_lines(trace, number, run)]


def _run_lines(trace: Trace, number: int, run: Run) -> Iterator[str]:
    steps = [e for e in trace.events if e.run == number and _is_step(e)]
    began = min((e.begin for e in steps), default=0)
    simulated = sorted({e.device for e in steps if is_simulated(e.device)})
    lengths = ", ".join(f"{name} {n}" for name, n in run.lengths.items())
    note = f"; the CPU computes for {', '.join(simulated)}, `graphsched plan` predicts" if simulated else ""
    yield f"run of {lengths}, times measured on this machine{note}"
    for e in steps:
        place = f"{HOST} for {e.device}" if is_simulated(e.device) else e.device
        name = f"{e.name} ({e.op})" if e.op else e.name
        yield (
            f"{(e.begin - began) / 1e3:10.1f} µs {e.ns / 1e3:9.2f} µs {_rate(e, run):8.2f} GB/s "
            f"{place:5} {e.kernel:32} {name}"
        )


def _is_step(event: Event) -> bool:
    """Whether an event is work or a wait on thread 0 of a stream."""
    is_own = event.lane != HOST_LANE and " thread " not in event.lane
    return is_own and event.kind in ("step", "view", "copy", "wait", "launch")


def _rate(event: Event, run: Run) -> float:
    """GB/s, from the bytes that the cost model counts; 0 without bytes or without time."""
    nbytes = event.nbytes
    if event.kind == "step" and event.node >= 0:
        nbytes = cost_of(run.schedule.graph.nodes[event.node], run.lengths).nbytes
    return nbytes / event.ns if event.ns else 0.0
