"""Fusions into ops of several results: nodes that run in one place are joined once every node has its device.

Homes alone do not tell where a sum or a rotation runs. As placement is decided, joining changes none of it: not what is
copied, not where splits end. Parts keep their names, labels and causes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from graphsched.graph.graph import Graph
from graphsched.graph.joins import RULES, Join, Readers
from graphsched.graph.opdef import lowering_for
from graphsched.graph.ops.several import results
from graphsched.graph.tensor import Tensor, layer_of
from graphsched.schedule.assign import Assignment, Target, is_foreign, stages
from graphsched.types.devices import HOST


def join(graph: Graph, assignment: Assignment, target: Target) -> tuple[Graph, Assignment]:
    """The graph with all joins whose switch is in `target.improve`, and where their nodes run."""
    rules = [rule for name, rule in RULES.items() if name in target.improve]
    if not rules:
        return graph, assignment
    order = _Order(graph, assignment, target)
    for rule in rules:
        for found in rule(graph, order.readers):
            order.take(found)
    return order.rebuilt() if order.joins else (graph, assignment)


@dataclass
class _Order:
    """Where in the order of the nodes each join goes: behind all that it reads, before all that reads it."""

    graph: Graph
    assignment: Assignment
    target: Target
    joins: dict[int, list[Join]] = field(default_factory=dict)  # by the node in front of which they go
    readers: Readers = field(init=False)
    position: dict[Tensor, float] = field(init=False)  # of a joined node half a step before that of the next

    def __post_init__(self) -> None:
        self.readers = self.graph.readers
        self.position = {node: float(i) for i, node in enumerate(self.graph.nodes)}
        self._stage = stages(self.graph, self.assignment)
        self._outputs = set(self.graph.outputs)

    def take(self, found: Join) -> None:
        """Adds a join, if it runs in one place, has a kernel there, and fits into the order."""
        if self._is_in_one_place(found) and self._has_kernel(found) and (at := self._place(found)) >= 0:
            self.joins.setdefault(at, []).append(found)
            self.position |= dict.fromkeys(found.nodes, at - 0.5)

    def _is_in_one_place(self, found: Join) -> bool:
        first, *others = found.nodes
        device, stage = self.assignment.device[first], self._stage[first]
        if any(self.assignment.device[n] != device or self._stage[n] != stage for n in others):
            return False
        places = [int(self.position[n]) for n in found.nodes]
        between = [n for n in self.graph.nodes[min(places) : max(places)] if not n.traits.view]
        if any(self.assignment.device[n] != device for n in between):
            return False
        return not any(self._uploads(n, device) for n in (found.made, *between))

    def _uploads(self, node: Tensor, device: str) -> bool:
        """Whether a weight comes for this node; each begins a split of its own."""
        weights = (s for s in node.sources if s.kind == "weight")
        return any(is_foreign(w, device, self.assignment, self.target) for w in weights)

    def _has_kernel(self, found: Join) -> bool:
        device = self.assignment.device[found.nodes[0]]
        if device != HOST:
            return self.target.supports(device, found.made)
        # The host runs references as well, where the parts have nothing better.
        return lowering_for("cpu", found.made) is not None or not any(
            lowering_for("cpu", node) for node in found.nodes
        )

    def _place(self, found: Join) -> int:
        """The number of the node in front of which a join goes, or -1 if there is no such place."""
        own = set(found.nodes)
        if not own.isdisjoint({*self._outputs, *found.made.sources}) or any(
            self.position[n] % 1 for n in own
        ):
            return -1
        sources = [self.position[s] for s in found.made.sources if s.kind == "node"]
        at = max(ceil(max(sources, default=-1.0)) + 1, int(min(self.position[n] for n in own)))
        users = (u for n in found.nodes for u in self.readers.get(n, ()) if u not in own)
        return at if all(self.position[u] > at - 0.5 for u in users) else -1

    def rebuilt(self) -> tuple[Graph, Assignment]:
        made = _Rebuilt(self.graph, self.assignment)
        gone = {node for joins in self.joins.values() for found in joins for node in found.nodes}
        for i, node in enumerate(self.graph.nodes):
            for found in self.joins.get(i, ()):
                made.add_join(found, self.readers)
            if node not in gone:
                made.add(node, node)
        return made.graph(), Assignment(made.device, made.cause)


@dataclass
class _Rebuilt:
    """A graph in the making, whose nodes have the names, labels and devices of those that they stand for."""

    old: Graph
    assignment: Assignment
    new: dict[Tensor, Tensor] = field(default_factory=dict)
    nodes: list[Tensor] = field(default_factory=list)
    names: dict[Tensor, str] = field(default_factory=dict)
    labels: dict[Tensor, str] = field(default_factory=dict)
    device: dict[Tensor, str] = field(default_factory=dict)
    cause: dict[Tensor, str] = field(default_factory=dict)

    def add(self, node: Tensor, old: Tensor) -> None:
        """A node in the place of an old one."""
        self.new[old] = made = self._over_new(node)
        self._put(made, self.old.names[old], self.old.labels[old], old)

    def add_join(self, found: Join, readers: Mapping[Tensor, Sequence[Tensor]]) -> None:
        *_, last = found.stands_for
        made = self._over_new(found.made)
        self._put(
            made, _joined_name(self.old, found), _joined(map(self.old.labels.get, found.stands_for)), last
        )
        for part, old in zip(results(made), found.stands_for, strict=True):
            if readers[old]:
                self.add(part, old)

    def _over_new(self, node: Tensor) -> Tensor:
        return node.over(self.new.get(s, s) for s in node.sources)

    def _put(self, node: Tensor, name: str, label: str, like: Tensor) -> None:
        self.nodes.append(node)
        self.names[node], self.labels[node] = name, label
        self.device[node], self.cause[node] = self.assignment.device[like], self.assignment.cause[like]

    def graph(self) -> Graph:
        outputs = tuple(self.new[o] for o in self.old.outputs)
        return Graph(tuple(self.nodes), outputs, self.names, self.labels)


def _joined(labels: Iterable[str | None]) -> str:
    return "+".join(label for label in labels if label)


def _joined_name(graph: Graph, found: Join) -> str:
    """blk.3.attn_q+attn_k+attn_v"""
    names = [graph.names[node] for node in found.stands_for]
    layer = layer_of(names[-1])
    short = (name.removeprefix(f"blk.{layer_of(name)}.") for name in names)
    return (f"blk.{layer}." if layer >= 0 else "") + _joined(short)
