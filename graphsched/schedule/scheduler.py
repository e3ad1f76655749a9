"""The scheduler: assigns a graph's nodes, orders them, cuts them into splits, and lists the copies before each.

A tensor is copied once to a device and run; cutting rules are those of ggml's fifth pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.schedule.assign import Assignment, Target, assign, hoist, is_foreign, root
from graphsched.schedule.costs import expert_ids
from graphsched.schedule.fuse import fuse, fuse_placed
from graphsched.types.devices import HOST

MAX_INPUTS = 64  # of one split


@dataclass(frozen=True, eq=False)
class Copy:
    """A tensor brought to another device: once per (tensor, device) and run. `ids` picks the experts that are sent."""

    source: Tensor
    from_device: str
    to_device: str
    tensor: Tensor  # a leaf of kind "copy" that the split's nodes read
    ids: Tensor | None = None

    @property
    def is_weight(self) -> bool:
        """Whether a weight is copied, and not an activation."""
        return self.source.kind == "weight"

    @property
    def described(self) -> str:
        """Type and origin, for dumps."""
        return f"{self.source.type} from {self.from_device}" + (", used experts" if self.ids else "")


@dataclass(frozen=True)
class Split:
    """Nodes that run together on one device, after their inputs have arrived."""

    device: str
    nodes: tuple[Tensor, ...]
    inputs: tuple[Copy, ...]


@dataclass(frozen=True)
class Schedule:
    """The cut graph: what runs where, in which order, and what is copied before it."""

    graph: Graph
    assignment: Assignment
    splits: tuple[Split, ...]
    placed: Mapping[Tensor, Tensor]  # node of the graph -> node of a split
    outputs: tuple[Tensor, ...]  # of the graph, as the host reads them
    results: tuple[Copy, ...] = ()  # what is brought to the host after the last split

    @property
    def copies(self) -> tuple[Copy, ...]:
        """All copies, in the order of their splits."""
        return (*(c for split in self.splits for c in split.inputs), *self.results)

    @cached_property
    def origin(self) -> Mapping[Tensor, Tensor]:
        """Node of a split -> node of the graph."""
        return {new: old for old, new in self.placed.items()}

    @cached_property
    def index(self) -> Mapping[Tensor, int]:
        """Node of a split -> its number in the graph."""
        return {self.placed[node]: i for i, node in enumerate(self.graph.nodes) if node in self.placed}

    def dump(self, names: Callable[[Tensor], str] | None = None) -> str:
        """Splits with their inputs and bytes; the form of the snapshots."""
        name = names or (lambda t: self.graph.names.get(t, t.name))
        lines = []
        for i, split in enumerate(self.splits):
            lines.append(f"split {i} on {split.device}")
            lines += [f"  <- {name(c.source)} {c.described}" for c in split.inputs]
            for node in split.nodes:
                old = self.origin.get(node)
                if old is not None:
                    lines.append(f"     {old.op.name:18} {name(old):28} {self.assignment.cause[old]}")
        lines += ["results"] if self.results else []
        lines += [f"  <- {name(c.source)} {c.described}" for c in self.results]
        return "\n".join(lines)


def schedule(graph: Graph, target: Target) -> Schedule:
    """Fuses, assigns, orders and cuts a graph; of schedules with and without doubtful fusions the faster one."""
    graph = fuse(graph, target)
    assignment, bold = assign(graph, target), frozenset[str]()
    best, doubtful = _with_fusions(graph, assignment, target, bold)
    for switch in sorted(doubtful):
        other, _ = _with_fusions(graph, assignment, target, bold | {switch})
        if target.costs.total(other, target.lengths) <= target.costs.total(best, target.lengths):
            best, bold = other, bold | {switch}
    return best


def _with_fusions(
    graph: Graph, assignment: Assignment, target: Target, bold: frozenset[str]
) -> tuple[Schedule, frozenset[str]]:
    """The schedule with fusions of placed nodes, and the switches of doubtful ones that are not in it."""
    graph, assignment, doubtful = fuse_placed(graph, assignment, target, bold)
    order = hoist(graph, assignment) if "hoist" in target.switches else graph.nodes
    return cut(graph, order, assignment, target), doubtful


def cut(graph: Graph, order: Sequence[Tensor], assignment: Assignment, target: Target) -> Schedule:
    """Pass 5: a new split where the device changes, where a split with inputs meets another uploaded weight, and
    where it would need more inputs than fit. A tensor is copied once to a device; later splits reuse it."""
    cutter = _Cutter(assignment, target, graph.names)
    for node in order:
        cutter.add(node)
    outputs = tuple(map(cutter.on_host, graph.outputs))
    splits, results = cutter.finish()
    return Schedule(graph, assignment, splits, cutter.placed, outputs, results)


class _Cutter:
    """Builds splits node by node."""

    def __init__(self, assignment: Assignment, target: Target, names: Mapping[Tensor, str]) -> None:
        self._assignment, self._target, self._names = assignment, target, names
        self._copies: dict[tuple[Tensor, str], Copy] = {}
        self._views: dict[tuple[Tensor, str], Tensor] = {}
        self._splits: list[Split] = []
        self._nodes: list[Tensor] = []
        self._inputs: list[Copy] = []
        self._device = ""
        self.placed: dict[Tensor, Tensor] = {}

    def add(self, node: Tensor) -> None:
        """Adds a node to the current split or begins one; views cost nothing and go to the split that reads them."""
        if node.traits.view:
            return
        device, ids = self._assignment.device[node], expert_ids(node, self._target.lengths)
        foreign = [s for s in map(root, node.sources) if self._is_foreign(s, device)]
        if self._starts_a_split(device, foreign, ids):
            self._close(device)
        for source in foreign:
            self._bring(source, device, ids if source.kind == "weight" else None)
        self._nodes.append(self._rewritten(node, device))

    def _is_foreign(self, source: Tensor, device: str) -> bool:
        return is_foreign(source, device, self._assignment, self._target)

    def _starts_a_split(self, device: str, foreign: Sequence[Tensor], ids: Tensor | None) -> bool:
        if device != self._device:
            return True
        fresh = [s for s in foreign if (s, device) not in self._copies]
        uploads = any(s.kind == "weight" for s in foreign)
        if uploads and ids is not None and self.placed.get(root(ids)) in self._nodes:
            return True  # the ids that choose what is uploaded are computed in this very split
        return bool(self._inputs) and (uploads or len(self._inputs) + len(fresh) > MAX_INPUTS)

    def _bring(self, source: Tensor, device: str, ids: Tensor | None = None) -> Tensor:
        """The copy of a source on a device, made on first need; expert ids come to the host first, once."""
        if (source, device) not in self._copies:
            if ids is not None and self._is_foreign(root(ids), HOST):
                ids = self._bring(root(ids), HOST)
            origin = self._assignment.device[source] if source.kind == "node" else _home(source, self._target)
            name = f"{device}#{self._names.get(source, source.name)}#0"
            leaf = Tensor(source.type, kind="copy", name=name)
            self._copies[source, device] = Copy(source, origin, device, leaf, ids)
            self._inputs.append(self._copies[source, device])
        return self._copies[source, device].tensor

    def _rewritten(self, node: Tensor, device: str) -> Tensor:
        """The node on its device's memory."""
        self.placed[node] = node.over(self._on(s, device) for s in node.sources)
        return self.placed[node]

    def _on(self, source: Tensor, device: str) -> Tensor:
        """The tensor that stands for a source on a device: itself, a copy, or a view of either."""
        if source.traits.view:
            if (source, device) not in self._views:
                self._views[source, device] = replace(source, sources=(self._on(source.sources[0], device),))
                self._nodes.append(self._views[source, device])
            return self._views[source, device]
        if self._is_foreign(source, device):
            return self._copies[source, device].tensor
        return self.placed.get(source, source)

    def on_host(self, output: Tensor) -> Tensor:
        """An output as the host reads it, after the last split: its own, a copy, or a view of either."""
        source, is_view = root(output), output.traits.view
        is_elsewhere = source.kind == "node" and self._assignment.device[source] != HOST
        if self._device != HOST and (is_elsewhere or is_view):
            self._close(HOST)
        if is_elsewhere:
            self._bring(source, HOST)
        return self._on(output, HOST)

    def _close(self, device: str) -> None:
        if self._nodes:
            self._splits.append(Split(self._device, tuple(self._nodes), tuple(self._inputs)))
            self._inputs = []
        self._nodes, self._device = [], device

    def finish(self) -> tuple[tuple[Split, ...], tuple[Copy, ...]]:
        """The splits, and what the host reads after the last one."""
        self._close("")
        return tuple(self._splits), tuple(self._inputs)


def _home(leaf: Tensor, target: Target) -> str:
    return HOST if leaf.kind == "input" else target.home(leaf)


def whole(graph: Graph) -> Schedule:
    """The schedule that runs everything on the host."""
    assignment = Assignment(dict.fromkeys(graph.nodes, HOST), dict.fromkeys(graph.nodes, "host only"))
    split = Split(HOST, graph.nodes, ())
    return Schedule(graph, assignment, (split,), {n: n for n in graph.nodes}, graph.outputs)
