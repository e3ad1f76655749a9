"""-ser N,F: experts whose score is below a share of the best one's are left out, as in ik_llama.cpp.

No op chooses fewer experts for some tokens than for others, but ids outside the range mean none in every product. So
columns that belong to no expert stand behind the scores, with the least score that an expert needs: where they are
among the largest they take the place of experts with less. There are as many as experts may be left out.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from graphsched.graph.graph import Graph, from_nodes
from graphsched.graph.opdef import Op
from graphsched.graph.ops import clamp, concat, get_rows, repeat, reshape, scale, top_k
from graphsched.graph.tensor import Tensor

# A weight of nothing: of a probability, and of what becomes one by softmax or sigmoid.
_NO_CHANCE, _NO_LOGIT = 0.0, -1e30
_PROBABILITIES: Final = (Op.SOFT_MAX, Op.UNARY)


def choices(graph: Graph, least: int) -> tuple[Tensor, ...]:
    """The nodes that choose more than `least` experts for each token, and not by groups."""
    return tuple(
        node
        for node in graph.nodes
        if node.op is Op.ARGSORT
        and node.shape[-1] > least
        and any(n.traits.chosen_by and n.operand(n.traits.chosen_by) is node for n in graph.readers[node])
    )


def fewer_experts(graph: Graph, least: int, share: float) -> Graph:
    """The graph in which tokens have `least` experts, and others whose score is at least a share of the best one's."""
    limited = choices(graph, least)
    nodes: list[Tensor] = []
    new: dict[Tensor, Tensor] = {}
    for node in graph.nodes:
        made = [node.over(new.get(s, s) for s in node.sources)]
        if node in limited:
            made = _limited(made[0], least, share)
        elif node.op is Op.GET_ROWS and node.sources[1] in limited:
            made = _without_weight(made[0], int(node.sources[1].shape[-1]) - least)
        nodes += made
        new[node] = replace(made[-1], label=graph.labels[node]) if len(made) > 1 else made[-1]
        nodes[-1] = new[node]
    return from_nodes(nodes, [new[o] for o in graph.outputs])


def _limited(ids: Tensor, least: int, share: float) -> list[Tensor]:
    """The choice among scores with further columns. [T, E] -> i32 [T, K]"""
    score, k = ids.sources[0], int(ids.shape[-1])
    first = top_k(score, k=1)
    best = get_rows(score, first)
    limit = scale(best, by=share)
    wide = _widened(score, limit, k - least)
    return [first, best, limit, *wide, top_k(wide[-1], k=k)]


def _without_weight(weights: Tensor, n: int) -> list[Tensor]:
    """What is gathered for chosen experts, n columns that are none having no weight."""
    values, ids = weights.sources
    value = _NO_CHANCE if values.op in _PROBABILITIES else _NO_LOGIT
    first = top_k(values, k=1)
    one = get_rows(values, first)
    none = clamp(one, low=value, high=value)
    wide = _widened(values, none, n)
    return [first, one, none, *wide, get_rows(wide[-1], ids)]


def _widened(x: Tensor, value: Tensor, n: int) -> Sequence[Tensor]:
    """x [T, E] with n columns of a value [T, 1] behind it; the nodes of that."""
    rows, columns = x.shape
    as_one = reshape(value, shape=(rows, 1, 1))
    copies = repeat(as_one, n=n)
    behind, front = reshape(copies, shape=(rows, 1, n)), reshape(x, shape=(rows, 1, columns))
    both = concat(front, behind)
    return as_one, copies, behind, front, both, reshape(both, shape=(rows, columns + n))
