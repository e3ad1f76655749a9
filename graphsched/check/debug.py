"""The debug ladder, GRAPHSCHED_DEBUG=1 to 4, and GRAPHSCHED_VALIDATE: what a session's plans tell about themselves."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched import env
from graphsched.arch.stored import EMBEDDING
from graphsched.graph.cost import cost_of
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.executable import RunTrace
from graphsched.schedule.scheduler import Schedule


class Runs(Protocol):
    """A schedule that can be run: an executable, or one in a wrapper."""

    @property
    def outputs(self) -> tuple[NDArray[Any], ...]:
        """Results of the last run, cut to its actual lengths; valid until the next run."""

    def run(self, lengths: Mapping[str, int]) -> None:
        """Runs with actual lengths."""

    def traced(self, lengths: Mapping[str, int]) -> RunTrace:
        """Runs and tells when each step ran."""


class Told:
    """An executable that tells about each run."""

    def __init__(self, made: Runs, say: Callable[[str], None]) -> None:
        self._made, self._say = made, say

    @property
    def outputs(self) -> tuple[NDArray[Any], ...]:
        return self._made.outputs

    def run(self, lengths: Mapping[str, int]) -> None:
        self.traced(lengths)

    def traced(self, lengths: Mapping[str, int]) -> RunTrace:
        trace = self._made.traced(lengths)
        for line in run_lines(trace):
            self._say(line)
        return trace


@dataclass(frozen=True)
class Making:
    """How a session makes executables, and what checks must know about it.

    input gives an input's host array, weights and types what the file holds, is_aborted whether a run ended early.
    """

    schedule: Callable[[Graph], Schedule]
    compile: Callable[[Schedule], Runs]
    input: Callable[[Tensor], NDArray[Any]]
    weights: Mapping[str, NDArray[np.uint8]]
    types: Mapping[str, TensorType]
    is_aborted: Callable[[], bool]

    def weight(self, leaf: Tensor) -> NDArray[Any]:
        """A weight's values as references read them, from the type that the file has it in."""
        stored = self.types.get(leaf.name) or self.types[EMBEDDING]  # a tied output is the embedding
        return stored.dtype.dequantize(self.weights[leaf.name], tuple(leaf.shape))


def watched(graph: Graph, made_by: Making) -> Runs:
    """The executable of a graph, wrapped in what the environment asks for: by default in nothing."""
    schedule = made_by.schedule(graph)
    made = made_by.compile(schedule)
    if level := env.debug():
        for line in plan_lines(schedule, made, level):
            _say(line)
    if env.validate():
        from graphsched.check.validate import validated

        made = validated(made, schedule, graph, made_by)
    return Told(made, _say) if level >= 2 else made


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def plan_lines(schedule: Schedule, made: Runs, level: int) -> list[str]:
    """A plan in one line; from level 3 its nodes with their causes, and its buffers; from 4 its kernels."""
    copies = [c for split in schedule.splits for c in split.inputs]
    nbytes = sum(c.tensor.type.nbytes for c in copies)
    tokens = next((int(n.shape[0]) for n in schedule.graph.outputs if n.shape), 0)
    arenas = {device: arena.nbytes for device, arena in _arenas(made).items()}
    sizes = ", ".join(f"{device} {n / 2**20:.2f} MiB" for device, n in arenas.items())
    nodes = len(schedule.graph.nodes)
    lines = [
        f"plan of {nodes} nodes, up to {tokens} outputs: {len(schedule.splits)} splits, "
        f"{len(copies)} copies of {nbytes / 2**20:.2f} MiB at most; arenas {sizes or 'none'}"
    ]
    if level >= 3:
        lines += schedule.dump().splitlines()
        for device, arena in _arenas(made).items():
            ends = sorted(arena.offsets.items(), key=lambda item: item[1])
            lines += [f"buffer {device} {at:>10} {b.nbytes:>10} {b.name}" for b, at in ends]
    return lines + (kernel_lines(made) if level >= 4 else [])


def _arenas(made: Any) -> Mapping[str, Any]:
    """Planned memory by device, where an executable tells it."""
    return getattr(getattr(made, "places", None), "plans", {})


def kernel_lines(made: Any) -> list[str]:
    """Each step with its kernel, arguments, rows and barrier; then where the kernels' sources are."""
    programs = getattr(made, "programs", {}).values()
    items = [item for p in programs for item in getattr(getattr(p, "packed", None), "items", ())]
    steps = [item for item in items if hasattr(item, "kernel")]
    lines = [
        f"step {i} {s.kernel.name} on {s.device}: {len(s.args)} arguments, rows {s.rows_times} of word {s.rows_word}"
        + (", barrier" if s.barrier else "")
        for i, s in enumerate(steps)
    ]
    kernels = {s.kernel.name: s.kernel for s in steps}
    return lines + [f"kernel {name}: {getattr(k, 'source', 'no source')}" for name, k in kernels.items()]


def run_lines(trace: RunTrace) -> list[str]:
    """Each step of a run: when it began, how long it took, and the bandwidth that its node reached."""
    graph = trace.schedule.graph
    began = min((step.begun for step in trace.steps), default=0.0)
    lines = ["run of " + ", ".join(f"{name} {n}" for name, n in trace.lengths.items())]
    for step in trace.steps:
        seconds = step.done - step.begun
        node = graph.nodes[step.node] if step.node >= 0 else None
        name = f"{graph.names[node]} ({node.op.name})" if node is not None else "copy"
        rate = cost_of(node, trace.lengths).nbytes / seconds / 1e9 if node is not None and seconds else 0.0
        lines.append(
            f"{(step.begun - began) * 1e6:10.1f} µs {seconds * 1e6:9.2f} µs {rate:8.2f} GB/s {step.device:5} "
            f"{step.kernel:32} {name}"
        )
    return lines
