"""The op graph of one plan: nodes in the model's order, with unique names and the field's labels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from graphsched.graph.labels import label_of, named_weight, stem_of
from graphsched.graph.tensor import Tensor, layer_of


@dataclass(frozen=True)
class Graph:
    """Nodes in execution order; `outputs` are the results a run hands back.

    A node's name is its weight's stem (`blk.3.ffn_down`), else `blk.3.<label>`; repeated names get a number.
    """

    nodes: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    names: Mapping[Tensor, str]
    labels: Mapping[Tensor, str]

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """Weights, inputs and caches, in order of first use."""
        return tuple(dict.fromkeys(s for n in self.nodes for s in n.sources if s.kind != "node"))

    @cached_property
    def position(self) -> Mapping[Tensor, int]:
        """The number of each node."""
        return {node: i for i, node in enumerate(self.nodes)}

    @cached_property
    def readers(self) -> Mapping[Tensor, Sequence[Tensor]]:
        """The nodes that read each node and leaf, in their order."""
        found: dict[Tensor, list[Tensor]] = {n: [] for n in self.nodes}
        for node in self.nodes:
            for source in dict.fromkeys(node.sources):
                found.setdefault(source, []).append(node)
        return found

    def dump(self) -> str:
        """A line per node: number, op, name and type."""
        return "\n".join(
            f"{i:4} {n.op.name:18} {self.names[n]:28} {n.type}" for i, n in enumerate(self.nodes)
        )


def reachable(outputs: Iterable[Tensor]) -> list[Tensor]:
    """Nodes that the outputs need, as the model wrote them."""
    visited: set[Tensor] = set()
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node.kind == "node" and node not in visited:
            visited.add(node)
            stack.extend(node.sources)
    return sorted(visited, key=lambda n: n.serial)


def from_outputs(*outputs: Tensor) -> Graph:
    """The graph of everything the outputs need."""
    return from_nodes(reachable(outputs), outputs)


def from_nodes(nodes: Iterable[Tensor], outputs: Iterable[Tensor]) -> Graph:
    """A graph of nodes in the order given."""
    nodes = tuple(nodes)
    labels: dict[Tensor, str] = {}
    names: dict[Tensor, str] = {}
    layers: dict[Tensor, int] = {}
    uses: dict[str, int] = {}
    for node in nodes:
        labels[node] = label_of(node, labels)
        layers[node] = max((layers.get(s, layer_of(s.name)) for s in node.sources), default=-1)
        names[node] = _unique(_base_name(node, labels[node], layers[node]), uses)
    return Graph(nodes, tuple(outputs), names, labels)


def _base_name(node: Tensor, label: str, layer: int) -> str:
    weight = named_weight(node)
    if weight is not None:
        label, layer = stem_of(weight, node), layer_of(weight.name)
    return f"blk.{layer}.{label}" if layer >= 0 else label


def _unique(name: str, uses: dict[str, int]) -> str:
    uses[name] = uses.get(name, 0) + 1
    return name if uses[name] == 1 else f"{name}#{uses[name]}"


def replace_leaves(graph: Graph, swap: Callable[[Tensor], Tensor]) -> Graph:
    """The same graph over other leaves (another stored type)."""
    leaves = {leaf: swap(leaf) for leaf in graph.leaves}
    return replace_operands(graph, lambda _, source: leaves.get(source, source))


def replace_operands(graph: Graph, swap: Callable[[Tensor, Tensor], Tensor]) -> Graph:
    """The same graph with each (node, leaf operand) replaced by what `swap` returns."""
    new: dict[Tensor, Tensor] = {}
    for node in graph.nodes:
        new[node] = node.over(new.get(s) or swap(node, s) for s in node.sources)
    if all(old is node for old, node in new.items()):
        return graph
    return from_nodes((new[n] for n in graph.nodes), (new[o] for o in graph.outputs))
