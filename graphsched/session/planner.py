"""From options to what the scheduler needs: devices, homes, policy, and which decisions a run's lengths make."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from graphsched.arch.stored import EMBEDDING, OUTPUT
from graphsched.errors import OptionError
from graphsched.graph.fusion_rules import RULES
from graphsched.graph.graph import Graph, replace_operands
from graphsched.graph.opdef import lowering_for
from graphsched.graph.tensor import Tensor, TensorType, layer_of
from graphsched.run.repack import repackable
from graphsched.schedule.assign import Target
from graphsched.schedule.costs import CROSSING_BYTES, Costs
from graphsched.schedule.fuse import fuse
from graphsched.schedule.placement import Home, Placement, place
from graphsched.schedule.policy import Policy
from graphsched.schedule.scheduler import Schedule, schedule
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions, physical_memory
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType


Decisions = tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Targets:
    """Where one model's tensors are for one session; makes a `Target` for the lengths of a run."""

    model: Model
    options: SessionOptions
    devices: tuple[str, ...]  # GPU-like devices in order of priority
    supports: Callable[[str, Tensor], bool]  # whether a device has a kernel for a node

    @cached_property
    def placement(self) -> Placement:
        types: dict[str, TensorType] = dict(self.model.types)
        if OUTPUT not in types and EMBEDDING in types:
            types[OUTPUT] = types[EMBEDDING]  # a tied matrix is two tensors to placement
        return place(types, self.model.config.n_layer, self.devices, self.options.placement)

    @cached_property
    def policy(self) -> Policy:
        """What decides on uploads."""
        return self.options.policy

    @cached_property
    def costs(self) -> Costs:
        """What decisions weigh: seconds on the machine that is described, or bytes."""
        from graphsched.predict.estimate import machine_costs  # most runs describe none
        from graphsched.predict.plan import described

        machine = described(self.options)
        return machine_costs(machine, self.devices) if machine else CROSSING_BYTES

    def home(self, leaf: Tensor) -> str:
        """The device that holds a weight or cache."""
        return self.home_of(leaf).device

    def home_of(self, leaf: Tensor) -> Home:
        """The device that holds a weight or cache, and why."""
        if leaf.kind == "cache":
            return self.placement.kv[layer_of(leaf.name)]
        return self.placement.homes[leaf.name]

    def untied(self, graph: Graph) -> Graph:
        """The graph in which a tied output matrix is a tensor of its own, if it lives elsewhere than the embedding."""
        homes = self.placement.homes
        is_tied = self.model.weights.stored_as(OUTPUT) == EMBEDDING
        if not is_tied or homes[OUTPUT].device == homes[EMBEDDING].device:
            return graph
        return replace_operands(graph, _as_output)

    def repacked(self, graph: Graph) -> Mapping[str, DType]:
        """The weights whose rows -rtr interleaves, and their types."""
        mode, rows = self.options.rtr, self.options.n_ubatch
        if mode == "off":
            return {}
        if mode == "on":
            return repackable(graph, self.home, lambda node: False)
        graph = self.fused(graph, {"n_tokens": rows, "n_outputs": rows})
        found = repackable(graph, self.home, lambda n: bool(self.devices) and self.policy.wants(n, rows))
        size = sum(self.model.types[name].nbytes for name in found if name in self.model.types)
        return found if size <= physical_memory() // 2 else {}  # auto: the file may be in memory, too

    def target(self, lengths: Mapping[str, int]) -> Target:
        return Target(
            devices=(*self.devices, HOST),
            home=self.home,
            supports=self.supports,
            policy=self.policy,
            lengths=lengths,
            costs=self.costs,
            improve=frozenset({"traffic", "hoist", *(rule.switch for rule in RULES)}) - self.options.off,
        )

    def fused(self, graph: Graph, lengths: Mapping[str, int]) -> Graph:
        """The graph with what is fused before nodes have places, at these lengths."""
        return fuse(graph, self.target(lengths))

    def decisions(self, graph: Graph, lengths: Mapping[str, int]) -> Decisions:
        """The ops with weights of a fused graph, and which are offloaded from host memory at these lengths.

        Part of a plan's key.
        """
        if not self.devices:
            return ()
        target = self.target(lengths)
        return tuple(
            (int(n.op), any(self.home(w) == HOST for w in weights) and self.policy.wants(n, target.length(n)))
            for n in graph.nodes
            if (weights := [s for s in n.sources if s.kind == "weight"])
        )

    def schedule(self, graph: Graph, lengths: Mapping[str, int]) -> Schedule:
        return schedule(graph, self.target(lengths))


def _as_output(node: Tensor, source: Tensor) -> Tensor:
    tied = source.name == EMBEDDING and node.traits.product
    return replace(source, name=OUTPUT) if tied else source


def has_kernel(node: Tensor) -> bool:
    """Whether the host, and devices that compute as it does, have a kernel for a node."""
    return lowering_for("cpu", node) is not None


def is_python_step(node: Tensor) -> bool:
    """Whether a node has no kernel: the program is cut there, and the host runs its numpy reference."""
    return not has_kernel(node)


def device_names(specs: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the devices that --device asks for: CUDA0, ... as they are, sim0, ... in order, none for `none`."""
    found: list[str] = []
    for name in (name for spec in specs for name in _named(spec)):
        found.append(name or f"sim{sum(n.startswith('sim') for n in found)}")
    twice = next((n for n in found if found.count(n) > 1), None)
    if twice:
        raise OptionError(f"--device names {twice} twice")
    return tuple(found)


def is_gpu(name: str) -> bool:
    """Whether a device of --device is a real one, as CUDA0."""
    return re.fullmatch(r"CUDA\d+", name.strip().upper()) is not None


def _named(spec: str) -> Iterator[str]:
    """Devices of one --device; those of a simulated machine get their names later."""
    from graphsched.predict import machine  # most runs describe none

    parts = spec.split(",") if not spec.startswith("sim:") and not spec.endswith(".toml") else [spec]
    for part in parts:
        if is_gpu(part):
            yield part.strip().upper()
        elif part.strip().lower() != "none":
            yield from ("" for _ in machine.load(part).devices)
