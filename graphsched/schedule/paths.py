"""Whether a fused op makes other devices wait longer than its nodes one after the other would."""

from collections.abc import Iterator, Sequence

from graphsched.graph.graph import Graph
from graphsched.graph.rewrites.fusion import Fusion
from graphsched.graph.tensor import Tensor
from graphsched.schedule.assign import Assignment, Target, root

ROUNDING = 1e-9


def is_any_longer(fusion: Fusion, graph: Graph, assignment: Assignment, target: Target) -> bool:
    """Whether a path from or to another device would take longer with the fused op, by what nodes cost there.

    A device runs its nodes in order. The fused op begins when all that its parts read has come, and ends when all its
    results are there; a part begins and ends by itself. So a path that enters at part j and leaves behind part i takes
    as long as the parts from j to i, or as the whole op.
    """
    device = assignment.device[fusion.nodes[0]]
    parts = sorted(fusion.nodes, key=graph.position.__getitem__)
    costs = [target.costs.compute(device, part, target.lengths) for part in parts]
    whole = target.costs.compute(device, fusion.made, target.lengths)
    last = len(parts) - 1
    enters, leaves = [], []
    for node, before in _with_others(parts, graph, device, assignment):
        if _waits(node, parts[0], graph, assignment):
            enters.append(before)
        if _is_awaited(node, parts, graph, assignment):
            leaves.append(before if node in parts else before - 1)
    ways = [(j, i) for j in [0, *enters] for i in [*leaves, last] if (j, i) != (0, last)]
    return any(whole > sum(costs[j : i + 1]) * (1 + ROUNDING) for j, i in ways)


def _with_others(
    parts: Sequence[Tensor], graph: Graph, device: str, assignment: Assignment
) -> Iterator[tuple[Tensor, int]]:
    """The parts and what their device runs between them, each with the number of parts before it."""
    before = 0
    for node in graph.nodes[graph.position[parts[0]] : graph.position[parts[-1]] + 1]:
        if assignment.device[node] == device and not node.traits.view:
            yield node, before
        before += node in parts


def _waits(node: Tensor, first: Tensor, graph: Graph, assignment: Assignment) -> bool:
    """Whether a node reads what comes from another device, and nothing in front of the first part has waited for it."""
    device = assignment.device[node]
    for source in map(root, node.sources):
        if source.kind == "node" and assignment.device[source] != device:
            readers = (r for r in _readers(source, graph) if assignment.device[r] == device)
            if all(graph.position[r] >= graph.position[first] for r in readers):
                return True
    return False


def _is_awaited(node: Tensor, parts: Sequence[Tensor], graph: Graph, assignment: Assignment) -> bool:
    """Whether another device reads a node."""
    device = assignment.device[node]
    return any(assignment.device[r] != device for r in _readers(node, graph) if r not in parts)


def _readers(node: Tensor, graph: Graph) -> Iterator[Tensor]:
    """The nodes that read a node, or a view of it."""
    for reader in graph.readers[node]:
        if reader.traits.view:
            yield from _readers(reader, graph)
        else:
            yield reader
