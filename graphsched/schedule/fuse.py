"""Fusion passes: which of the fusions that rules find are taken, and the graph with them.

Rules that need homes run before assignment, so that policy and placement see one node: if its weights share a home, or
if uploading them to one device costs no more than running its nodes where they are. Rules that need devices run after
assignment, since homes alone do not say where a sum or a rotation runs. They change no placement, no copy and no end of
a split; PARTs keep names, labels and causes of the nodes that they replace. A fusion by which another device would wait
longer is left to the predicted time of the whole schedule.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import ceil

from graphsched.graph.graph import Graph, from_nodes
from graphsched.graph.opdef import lowering_for
from graphsched.graph.ops.several import is_several, results
from graphsched.graph.rewrites.fusion import Fusion, Needs, Rule
from graphsched.graph.rewrites.rules import RULES
from graphsched.graph.tensor import Tensor, layer_of
from graphsched.schedule.assign import Assignment, Target, is_foreign, place_beside_weight, stages
from graphsched.schedule.costs import finished
from graphsched.schedule.paths import is_any_longer
from graphsched.types.devices import HOST


def fuse(graph: Graph, target: Target) -> Graph:
    """The graph with all fusions that are made before assignment."""
    fused = graph
    for rule in _rules("homes", target):
        order = _Order(fused)
        for fusion in rule.find(fused):
            # No node has a device yet: whichever it gets must have the kernel.
            if all(_has_kernel(fusion, device, target) for device in target.devices) and (
                _has_one_home(fusion, target) or _is_cheaper(fusion, fused, target)
            ):
                order.take(fusion)
        fused = order.rebuilt()
    return graph if fused is graph else from_nodes(fused.nodes, fused.outputs)


def fuse_placed(
    graph: Graph, assignment: Assignment, target: Target, bold: frozenset[str] = frozenset()
) -> tuple[Graph, Assignment, frozenset[str]]:
    """The graph with all fusions of nodes that run in one place, and where its nodes run.

    A fusion that makes another device wait longer is doubtful: it is taken only if its switch is in `bold`. The third
    value has the switches of those that were not taken for that reason.
    """
    doubtful: set[str] = set()
    place = _Place(graph, assignment, target)
    for rule in _rules("devices", target):
        if not (found := list(rule.find(graph))):
            continue
        if place.graph is not graph:
            place = _Place(graph, assignment, target)
        order = _Order(graph)
        for fusion in found:
            device = assignment.device[fusion.nodes[0]]
            if not place.is_one(fusion) or not _has_kernel(fusion, device, target):
                continue
            if rule.switch in bold or not is_any_longer(fusion, graph, assignment, target):
                order.take(fusion)
            else:
                doubtful.add(rule.switch)
        graph = order.rebuilt()
        assignment = order.reassigned(assignment)
    return graph, assignment, frozenset(doubtful)


def _rules(needs: Needs, target: Target) -> Iterator[Rule]:
    return (rule for rule in RULES if rule.needs == needs and rule.switch in target.switches)


def _has_one_home(fusion: Fusion, target: Target) -> bool:
    """Whether all weights that the fused op reads live on one device."""
    weights = (s for s in fusion.made.sources if s.kind == "weight" and not target.shared(s))
    return len({target.home(w) for w in weights}) < 2


def _is_cheaper(fusion: Fusion, graph: Graph, target: Target) -> bool:
    """Whether the fused op, weights uploaded to it, finishes no later than its nodes each beside its own weight.

    Nodes without weights run on whichever of these devices is best.
    """
    parts = sorted(fusion.nodes, key=lambda node: node.serial)
    *_, last = fusion.stands_for
    home = place_beside_weight(fusion.made, target)
    beside = {node: place_beside_weight(node, target) for node in parts}
    readers = (place_beside_weight(node, target) for node in graph.readers[last])
    reader = next(filter(None, readers), home)
    apart = (
        finished(parts, {node: on or free for node, on in beside.items()}, reader, target)
        for free in dict.fromkeys(filter(None, beside.values()))
    )
    return finished([fusion.made], {fusion.made: home}, reader, target) <= min(apart)


def _has_kernel(fusion: Fusion, device: str, target: Target) -> bool:
    """Whether the device has a kernel for the fused op, or lacks one for some of its nodes, too."""
    if device != HOST:
        return target.supports(device, fusion.made) or not all(
            target.supports(device, n) for n in fusion.nodes
        )
    # The host runs references as well, where the parts have nothing better.
    return lowering_for("cpu", fusion.made) is not None or not any(
        lowering_for("cpu", node) for node in fusion.nodes
    )


@dataclass
class _Place:
    """Where the nodes of a graph run."""

    graph: Graph
    assignment: Assignment
    target: Target

    def __post_init__(self) -> None:
        self._stage = stages(self.graph, self.assignment)

    def is_one(self, fusion: Fusion) -> bool:
        """Whether all nodes run on one device in one split, which no upload for one of them would end."""
        first, *others = fusion.nodes
        device, stage = self.assignment.device[first], self._stage[first]
        if any(self.assignment.device[n] != device or self._stage[n] != stage for n in others):
            return False
        places = [self.graph.position[n] for n in fusion.nodes]
        between = [n for n in self.graph.nodes[min(places) : max(places)] if not n.traits.view]
        if any(self.assignment.device[n] != device for n in between):
            return False
        return not any(self._uploads(n, device) for n in (fusion.made, *between))

    def _uploads(self, node: Tensor, device: str) -> bool:
        """Whether a weight is uploaded for this node, by which a split begins."""
        weights = (s for s in node.sources if s.kind == "weight")
        return any(is_foreign(w, device, self.assignment, self.target) for w in weights)


@dataclass
class _Order:
    """The order of a graph's nodes with fusions in it: each behind all that it reads, before all that reads it."""

    graph: Graph
    taken: dict[int, list[Fusion]] = field(default_factory=dict)  # by the node in front of which they go
    like: dict[Tensor, Tensor] = field(
        default_factory=dict
    )  # node of the new graph -> the one whose place it takes

    def __post_init__(self) -> None:
        # Of a fused node half a step before that of the next.
        self.position: dict[Tensor, float] = dict(self.graph.position)
        self._outputs = set(self.graph.outputs)

    def take(self, fusion: Fusion) -> None:
        """Adds a fusion if nothing outside reads its inner nodes and it fits into the order."""
        if self._is_closed(fusion) and (at := self._place(fusion)) >= 0:
            self.taken.setdefault(at, []).append(fusion)
            self.position |= dict.fromkeys(fusion.nodes, at - 0.5)

    def _is_closed(self, fusion: Fusion) -> bool:
        nodes = set(fusion.nodes)
        # The host reads an output where it is: a result of several has no tensor of its own.
        hidden = fusion.nodes if is_several(fusion.made) else fusion.inside
        if not self._outputs.isdisjoint(hidden) or not nodes.isdisjoint(fusion.made.sources):
            return False
        return all(nodes.issuperset(self.graph.readers[node]) for node in fusion.inside)

    def _place(self, fusion: Fusion) -> int:
        """The number of the node in front of which a fusion goes, or -1 if there is no such place."""
        nodes = set(fusion.nodes)
        if any(self.position[n] % 1 for n in nodes):
            return -1
        sources = [self.position[s] for s in fusion.made.sources if s.kind == "node"]
        at = max(ceil(max(sources, default=-1.0)) + 1, int(min(self.position[n] for n in nodes)))
        users = (u for n in fusion.nodes for u in self.graph.readers[n] if u not in nodes)
        return at if all(self.position[u] > at - 0.5 for u in users) else -1

    def rebuilt(self) -> Graph:
        """The graph with what was taken; nodes keep the names and labels of those whose place they take."""
        if not self.taken:
            return self.graph
        new = _Rebuilt(self.graph, self.like)
        gone = {node for fusions in self.taken.values() for fusion in fusions for node in fusion.nodes}
        for i, node in enumerate(self.graph.nodes):
            for fusion in self.taken.get(i, ()):
                new.add_fusion(fusion)
            if node not in gone:
                new.add(node, node)
        return new.graph()

    def reassigned(self, assignment: Assignment) -> Assignment:
        """Where the nodes of the rebuilt graph run."""
        if not self.taken:
            return assignment
        device = {new: assignment.device[old] for new, old in self.like.items()}
        return Assignment(device, {new: assignment.cause[old] for new, old in self.like.items()})


@dataclass
class _Rebuilt:
    """A graph that is rebuilt with fusions in it."""

    old: Graph
    like: dict[Tensor, Tensor]
    new: dict[Tensor, Tensor] = field(default_factory=dict)
    names: dict[Tensor, str] = field(default_factory=dict)
    labels: dict[Tensor, str] = field(default_factory=dict)

    def add(self, node: Tensor, old: Tensor) -> None:
        """Adds a node that takes the place and name of an old one."""
        self.new[old] = new = node.over(self.new.get(s, s) for s in node.sources)
        self._put(new, old, self.old.names[old], self.old.labels[old])

    def add_fusion(self, fusion: Fusion) -> None:
        """Adds a fused op, and its PARTs in the places of the nodes that they stand for."""
        *_, last = fusion.stands_for
        node = replace(fusion.made, serial=last.serial)
        if not is_several(node):
            self.add(node, last)
            return
        node = node.over(self.new.get(s, s) for s in node.sources)
        labels = _plus(self.old.labels[old] for old in fusion.stands_for)
        self._put(node, last, _fused_name(self.old, fusion), labels)
        for part, old in zip(results(node), fusion.stands_for, strict=True):
            if self.old.readers[old]:
                self.add(part, old)

    def _put(self, node: Tensor, old: Tensor, name: str, label: str) -> None:
        self.like[node], self.names[node], self.labels[node] = old, name, label

    def graph(self) -> Graph:
        outputs = tuple(self.new[o] for o in self.old.outputs)
        return Graph(tuple(self.like), outputs, self.names, self.labels)


def _plus(labels: Iterable[str]) -> str:
    return "+".join(filter(None, labels))


def _fused_name(graph: Graph, fusion: Fusion) -> str:
    """blk.3.attn_q+attn_k+attn_v"""
    names = [graph.names[node] for node in fusion.stands_for]
    layer = layer_of(names[-1])
    short = (name.removeprefix(f"blk.{layer_of(name)}.") for name in names)
    return (f"blk.{layer}." if layer >= 0 else "") + _plus(short)
