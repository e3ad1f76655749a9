"""What can be joined: nodes of a graph that an op of several results computes in one step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphsched.graph import Graph
from graphsched.labels import stem_of
from graphsched.opdef import AnyOp, Op
from graphsched.ops import fused_add_rms_norm, fused_rope, mul_mat_qkv, topk_moe
from graphsched.tensor import Tensor, layer_of

Readers = Mapping[Tensor, Sequence[Tensor]]  # leaf or node -> the nodes that read it, in their order
MOST_MATRICES: Final = 3


@dataclass(frozen=True)
class Join:
    """A fused op, the nodes that its results stand for in their order, and those inside that nothing else reads."""

    made: Tensor
    stands_for: tuple[Tensor, ...]
    inside: tuple[Tensor, ...] = ()

    @property
    def nodes(self) -> tuple[Tensor, ...]:
        return self.stands_for + self.inside


Rule = Callable[[Graph, Readers], Iterator[Join]]


def _op(node: Tensor) -> AnyOp | None:
    return node.opdef.op if node.opdef else None


def _nodes(graph: Graph, op: Op) -> Iterator[Tensor]:
    return (node for node in graph.nodes if _op(node) is op)


def add_rms_norm(graph: Graph, readers: Readers) -> Iterator[Join]:
    """FUSED_RMS_NORM(ADD(x, y), w) -> FUSED_ADD_RMS_NORM: the sum, and its norm"""
    for norm in _nodes(graph, Op.FUSED_RMS_NORM):
        total, w = norm.sources
        if _op(total) is Op.ADD and len({s.shape for s in (total, *total.sources)}) == 1:
            x, y = total.sources
            yield Join(fused_add_rms_norm(x, y, w, eps=norm.attrs["eps"]), (total, norm))


def rope_pairs(graph: Graph, readers: Readers) -> Iterator[Join]:
    """ROPE(q), ROPE(k) of a layer, by the same angles -> FUSED_ROPE"""
    waiting: dict[object, Tensor] = {}
    for node in _nodes(graph, Op.ROPE):
        alike = layer_of(graph.names[node]), node.attrs["rope"], node.shape[2], node.sources[1:]
        q = waiting.pop(alike, None)
        if q is None:
            waiting[alike] = node
        else:
            made = fused_rope(q.sources[0], node.sources[0], *node.sources[1:], rope=node.attrs["rope"])
            yield Join(made, (q, node))


def qkv(graph: Graph, readers: Readers) -> Iterator[Join]:
    """MUL_MATs of one x with the matrices of an attention that have one type -> MUL_MAT_QKV"""
    for x, nodes in readers.items():
        alike: dict[int, list[Tensor]] = {}
        for node in nodes:
            if _is_projection(node, x):
                alike.setdefault(node.sources[0].dtype.id, []).append(node)
        for group in alike.values():
            if 1 < len(group) <= MOST_MATRICES:
                yield Join(mul_mat_qkv(x, *(n.sources[0] for n in group)), tuple(group))


def _is_projection(node: Tensor, x: Tensor) -> bool:
    if _op(node) is not Op.MUL_MAT or node.sources[1] is not x or node.attrs["rows"]:
        return False
    w = node.sources[0]
    return w.kind == "weight" and len(w.shape) == 2 and stem_of(w, Op.MUL_MAT).startswith("attn_")


def experts(graph: Graph, readers: Readers) -> Iterator[Join]:
    """SOFT_MAX, ARGSORT, GET_ROWS of the chosen (and SUM_ROWS, CLAMP, DIV) -> TOPK_MOE"""
    for probs in _nodes(graph, Op.SOFT_MAX):
        users = readers.get(probs, ())
        if (
            len(probs.sources) > 1
            or probs.attrs["scale"] != 1.0
            or [*map(_op, users)] != [Op.ARGSORT, Op.GET_ROWS]
        ):
            continue
        ids, weights = users
        if weights.sources == (probs, ids):
            yield _choice(probs, ids, weights, readers)


def _choice(probs: Tensor, ids: Tensor, weights: Tensor, readers: Readers) -> Join:
    """With the normalisation of the weights, if that is all that reads them."""
    logits, k, users = probs.sources[0], ids.attrs["k"], readers.get(weights, ())
    if [*map(_op, users)] == [Op.SUM_ROWS, Op.DIV]:
        total, share = users
        bound = share.sources[1]
        plain = _op(bound) is Op.CLAMP and bound.sources == (total,) and bound.attrs["high"] == float("inf")
        if plain and len(readers[total]) == len(readers[bound]) == 1:
            made = topk_moe(logits, k=k, least=bound.attrs["low"])
            return Join(made, (ids, share), (probs, weights, total, bound))
    return Join(topk_moe(logits, k=k), (ids, weights), (probs,))


# Named as the switches that turn them off.
RULES: Final[Mapping[str, Rule]] = {
    "merge-qkv": qkv,
    "fused-rope": rope_pairs,
    "fused-add-rms-norm": add_rms_norm,
    "fused-topk-moe": experts,
}
