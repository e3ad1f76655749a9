"""Schedules of a model's graphs for actual lengths, as the options of a session ask for them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Final

from graphsched.errors import OptionError
from graphsched.gguf.given import Given
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.machine.changes import changed
from graphsched.machine.description import load
from graphsched.machine.estimate import machine_costs
from graphsched.machine.machine import Machine
from graphsched.option import declarations
from graphsched.run.device import device_names, machines
from graphsched.run.repack import repackable
from graphsched.schedule.assign import Target
from graphsched.schedule.by_cost import ByCost, work_beside
from graphsched.schedule.costs import CROSSING_BYTES, Costs
from graphsched.schedule.effects import policy_given
from graphsched.schedule.fuse import fuse
from graphsched.schedule.policy import AUTO, OffloadPolicy, Policy
from graphsched.schedule.scheduler import Schedule, schedule
from graphsched.session.batching import Batching
from graphsched.session.capacity import capacities, shares
from graphsched.session.homes import Homes, homes_of
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions, physical_memory
from graphsched.session.switches import SWITCHES
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType
from graphsched.types.extents import N_OUTPUTS, N_TOKENS

_OF_LAYERS: Final = {
    "mla": "no layer has latent attention",
    "amb": "no layer has latent attention",
    "swa_full": "no layer sees a window",
    "n_checkpoints": "no layer has a recurrent state",
    "checkpoint_every": "no layer has a recurrent state",
}
Decisions = tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Planner:
    """Makes schedules for graphs and lengths; the homes of a model's tensors are the same for all of them."""

    model: Model
    options: SessionOptions
    devices: tuple[str, ...]  # GPU-like devices in order of priority
    supports: Callable[[str, Tensor], bool]  # whether a device has a kernel for a node
    memory: Mapping[str, int] | None = (
        None  # `capacities`, if known already: they are less once weights are loaded
    )

    @cached_property
    def homes(self) -> Homes:
        """Where weights and caches live."""
        return homes_of(self.model, self.options, self.devices, shares(self.capacities, self.devices))

    @cached_property
    def machine(self) -> Machine | None:
        """The described machine; None beside real devices."""
        return described_machine(self.options)

    @cached_property
    def capacities(self) -> Mapping[str, int]:
        """Bytes of memory that the host and each device have, as far as it is known."""
        return capacities(self.machine, self.devices) if self.memory is None else self.memory

    @cached_property
    def batching(self) -> Batching:
        """How prompts are read."""
        return self.model.batching(self.options)

    @cached_property
    def policy(self) -> Policy:
        """The offload policy. OptionError for `auto` where nothing is known of the devices."""
        policy = self.options.policy
        if not isinstance(policy, OffloadPolicy) or policy.rule is not AUTO or not self.devices:
            return policy
        if self.machine is None:
            what = "is auto, which needs a described machine, as of --device sim:NAME"
            raise OptionError(what, "offload_policy")
        return replace(policy, rule=ByCost(self.costs, self.devices[0], cache(self._work_beside)))

    def _work_beside(self, rows: int) -> float:
        graph = self.model.graph(1, 1, self.batching.n_ctx, self.options)
        return work_beside(graph, self.costs, self.devices[0], lambda w: self.homes.device(w) == HOST, rows)

    @cached_property
    def costs(self) -> Costs:
        """Costs for decisions: seconds on the described machine, or bytes over links without one."""
        return machine_costs(self.machine, self.devices) if self.machine else CROSSING_BYTES

    def target(self, lengths: Mapping[str, int]) -> Target:
        """The scheduler's target for a run of these lengths."""
        return Target(
            devices=(*self.devices, HOST),
            home=self.homes.device,
            supports=self.supports,
            policy=self.policy,
            lengths=lengths,
            costs=self.costs,
            switches=frozenset(SWITCHES) - self.options.off,
        )

    def fused(self, graph: Graph, lengths: Mapping[str, int]) -> Graph:
        """The graph with what is fused before assignment, at these lengths."""
        return fuse(graph, self.target(lengths))

    def why(self, node: Tensor, lengths: Mapping[str, int]) -> str:
        """What `auto` found about a node of a placed graph with a weight in host memory; empty for all else."""
        rule = getattr(self.policy, "rule", None)
        weights = [s for s in node.sources if s.kind == "weight"]
        if not isinstance(rule, ByCost) or not any(self.homes.device(w) == HOST for w in weights):
            return ""
        return "" if node.traits.gathers else rule.why(node, self.target(lengths).length(node))

    def decisions(self, graph: Graph, lengths: Mapping[str, int]) -> Decisions:
        """The ops with weights of a fused graph, and which are offloaded from host memory at these lengths.

        Part of a plan's key.
        """
        if not self.devices:
            return ()
        target = self.target(lengths)
        return tuple(
            (
                int(n.op),
                any(self.homes.device(w) == HOST for w in weights) and self.policy.wants(n, target.length(n)),
            )
            for n in graph.nodes
            if (weights := [s for s in n.sources if s.kind == "weight"])
        )

    def given(self, graphs: Iterable[Graph]) -> tuple[Given, ...]:
        """What was asked for, with its effect on placement, policy and layers; fused graphs of all kinds of runs."""
        asked = policy_given(self.policy, self._uploadable(graphs)) if self.devices else ()
        return (*self.homes.placement.given, *asked, *self._layers_given())

    def _layers_given(self) -> Iterator[Given]:
        """Options of layers that are not as by default, with the number of layers or weights that they are about."""
        o, declared = self.options, declarations(SessionOptions)
        asked = {name: v for name in _OF_LAYERS if (v := getattr(o, name)) != getattr(SessionOptions, name)}
        if not asked and o.rtr != "on":
            return
        graph = self.model.graph(1, 1, self.batching.n_ctx, o)
        for name, value in asked.items():
            typed = declared[name].flag + ("" if value is True else f" {value}")
            hits = min(self.model.layers_asking.get(name, 0), self.model.config.n_layer)
            yield Given(typed, hits, why=_OF_LAYERS[name])
        if o.rtr == "on":
            types = [self.model.types[name] for name in repacked(self, graph) if name in self.model.types]
            size = sum(type.nbytes for type in types)
            yield Given(
                "-rtr 1", len(types), size, "no weight in host memory has a type with rows interleaved"
            )

    def _uploadable(self, graphs: Iterable[Graph]) -> Iterator[Tensor]:
        """The nodes of graphs with a weight in host memory that a device may compute: those a policy is asked about."""
        for node in (node for graph in graphs for node in graph.nodes if self.devices):
            if any(s.kind == "weight" and self.homes.device(s) == HOST for s in node.sources):
                yield node

    def schedule(self, graph: Graph, lengths: Mapping[str, int]) -> Schedule:
        """The schedule of a graph for a run of these lengths."""
        return schedule(graph, self.target(lengths))


def described_machine(options: SessionOptions) -> Machine | None:
    """One machine out of all that --device names: the first one's host, the devices in use; None for real devices."""
    loaded = [load(spec) for spec in machines(options.devices)]
    if not loaded:
        return None
    there = {f"sim{i}": device for i, device in enumerate(d for m in loaded for d in m.devices)}
    devices = tuple(there[name] for name in device_names(options.devices))
    return changed(Machine(" + ".join(m.name for m in loaded), loaded[0].host, devices), options.what_if)


def repacked(planner: Planner, graph: Graph) -> Mapping[str, DType]:
    """The weights of a graph whose rows -rtr interleaves, and the types that they then have."""
    mode, rows, home = planner.options.rtr, planner.batching.n_ubatch, planner.homes.device
    if mode == "off":
        return {}
    if mode == "on":
        return repackable(graph, home, lambda node: False)
    # A weight that a full micro-batch uploads must keep its plain type: devices have no kernels for interleaved rows.
    graph = planner.fused(graph, {N_TOKENS: rows, N_OUTPUTS: rows})
    found = repackable(graph, home, lambda n: bool(planner.devices) and planner.policy.wants(n, rows))
    types = planner.model.types
    size = sum(types[name].nbytes for name in found if name in types)
    return found if size <= physical_memory() // 2 else {}  # auto: the file may be in memory, too
