"""Plans of hand-made graphs: schedule over devices with causes, run, and times.

y = graphsched.ops.mul_mat(graphsched.weight("w", graphsched.f32(8, 4)), x)
plan = graphsched.plan(y, devices="sim:rtx4090", homes={"w": "sim0"})
(result,) = plan.run({"w": values}, {"x": rows})
print(plan, plan.times())
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from graphsched.graph.graph import Graph, from_outputs
from graphsched.graph.tensor import Tensor
from graphsched.library.given import (
    Homes,
    Values,
    actual_lengths,
    capacities,
    homes_of,
    input_values,
    weight_bytes,
)
from graphsched.library.times import Times
from graphsched.machine.machine import Machine
from graphsched.machine.timeline import simulate
from graphsched.predict.sim_trace import as_trace
from graphsched.run.device import Device, Setup, device_names, open_devices
from graphsched.run.executable import Executable
from graphsched.run.runtime import Runtime, in_kernel_types, open_runtime
from graphsched.run.trace import ON, Trace
from graphsched.run.trace_read import read
from graphsched.schedule.assign import Target
from graphsched.schedule.causes import meaning
from graphsched.schedule.policy import Policy
from graphsched.schedule.scheduler import Schedule, schedule
from graphsched.session.options import SessionOptions, session_options
from graphsched.session.planner import described_machine
from graphsched.session.switches import SWITCHES
from graphsched.types.devices import HOST


def make_graph(*outputs: Tensor) -> Graph:
    """The graph of everything that the outputs need, which a run hands back in this order."""
    return from_outputs(*outputs)


def plan(
    graph: Graph | Tensor,
    *,
    devices: str | Iterable[str] = (),
    homes: Homes = "",
    policy: str | Policy | None = None,
    lengths: Mapping[str, int] | None = None,
    threads: int = 0,
    off: Iterable[str] = (),
) -> "Plan":
    """Schedules a graph (or that of one output) over the host and devices.

    devices: as `--device` has them, in order of priority: `sim:2x3090` is two, sim0 and sim1. homes: where weights and
    caches live, by name, or as `-ot` has it (`ffn_.*=CPU`); the others live on the host. policy: as `-op` has it, or an
    object with `wants(node, rows)`; the default uploads weights for 32 rows and more. lengths: the actual length of
    each `Extent` by its word, if not its capacity. threads: of the host, 0 for all cores. off: switches that are off.
    OptionError for what is none of these.
    """
    if isinstance(graph, Tensor):
        graph = make_graph(graph)
    given = {"devices": devices, "offload_policy": "" if policy is None else policy}
    options = session_options(**given, n_threads=threads, off=off)
    names = device_names(options.devices)
    return Plan(graph, options, names, homes_of(homes, graph, names), actual_lengths(graph, lengths or {}))


class Plan:
    """A graph's schedule for given lengths. It runs with any weights and inputs, and tells its times."""

    def __init__(
        self,
        graph: Graph,
        options: SessionOptions,
        devices: tuple[str, ...],
        homes: Mapping[str, str],
        lengths: Mapping[str, int],
    ) -> None:
        self.graph, self.devices, self.homes, self.lengths = graph, devices, homes, lengths
        self._options = options
        self._opened: tuple[Values, Runtime, Executable] | None = None

    @cached_property
    def schedule(self) -> Schedule:
        """The splits, with what is copied before each, and the cause of each node's place."""
        made = open_devices("null", Setup({}, devices=self.devices))
        graph, _ = in_kernel_types(self.graph, made, self._home)
        return self._scheduled(graph, made)

    def _scheduled(self, graph: Graph, devices: Mapping[str, Device]) -> Schedule:
        target = Target(
            devices=(*self.devices, HOST),
            home=self._home,
            supports=lambda device, node: devices[device].supports(node),
            policy=self._options.policy,
            lengths=self.lengths,
            shared=lambda leaf: False,
            switches=frozenset(SWITCHES) - self._options.off,
        )
        return schedule(graph, target)

    def _home(self, leaf: Tensor) -> str:
        return self.homes[leaf.name]

    def run(self, weights: Values, inputs: Values) -> tuple[NDArray[Any], ...]:
        """Runs with values by name; the outputs, cut to actual lengths. Caches keep what the last run left in them.

        A weight's values are numbers, which are stored in its type, or its bytes (uint8). They are loaded again if
        `weights` is not the mapping of the run before. ShapeError for a wrong shape, and for values that are missing.
        """
        if self._opened is None or self._opened[0] is not weights:
            self.close()
            self._opened = (weights, *self._open(weights))
        _, runtime, executable = self._opened
        for leaf in self.graph.leaves:
            if leaf.kind == "input":
                values = input_values(inputs, leaf)
                runtime.input(leaf)[tuple(map(slice, values.shape))] = values
        runtime.recorder.take()
        executable.run(self.lengths)
        return tuple(output.copy() for output in executable.outputs)

    def _open(self, weights: Values) -> tuple[Runtime, Executable]:
        leaves = [leaf for leaf in self.graph.leaves if leaf.kind == "weight"]
        raw = {leaf.name: weight_bytes(weights, leaf) for leaf in leaves}
        setup = Setup(raw, capacities(self.graph), self._options.threads, self.devices, trace=ON)
        runtime = open_runtime("cpu", setup)
        graph = runtime.in_kernel_types(self.graph, self._home)
        return runtime, runtime.compile(self._scheduled(graph, runtime.devices))

    def times(self) -> Times:
        """When each step and copy would run on the described machine, and when each ran here in the last run."""
        machine = described_machine(self._options)
        return Times(machine, self._predicted(machine), self._measured())

    def _predicted(self, machine: Machine | None) -> Trace | None:
        if machine is None:
            return None
        on = dict(zip(self.devices, machine.devices, strict=True))
        timeline = simulate(self.schedule, machine.host, on, self.lengths)
        return as_trace(timeline, self.schedule, self.lengths)

    def _measured(self) -> Trace | None:
        return None if self._opened is None else read(list(self._opened[1].recorder.spans))

    def close(self) -> None:
        """Gives back the memory of devices, and the last run's times. A later run opens them again."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def __str__(self) -> str:
        """Each split with what is copied to it, and its nodes with the cause of their place."""
        made = self.schedule
        names, lines = made.graph.names, []
        for i, split in enumerate(made.splits):
            lines.append(f"split {i} on {split.device}")
            lines += [f"  <- {names.get(c.source, c.source.name)} {c.described}" for c in split.inputs]
            for node in filter(None, map(made.origin.get, split.nodes)):
                cause = _cause(made.assignment.cause[node], node)
                lines.append(f"  {node.op.name:18} {names[node]:18} {node.type!s:18} {cause}")
        lines += ["results"] if made.results else []
        lines += [f"  <- {names.get(c.source, c.source.name)} {c.described}" for c in made.results]
        return "\n".join(lines)


def _cause(cause: str, node: Tensor) -> str:
    weight = next((s.name for s in node.sources if s.kind == "weight"), "")
    return f"{cause}: {weight} is there" if cause.startswith("1.wgt") else meaning(cause)
