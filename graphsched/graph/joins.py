"""What can be joined: nodes of a graph that an op of several results computes in one step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphsched.graph.graph import Graph
from graphsched.graph.labels import stem_of
from graphsched.graph.opdef import Op
from graphsched.graph.ops import fused_add_rms_norm, fused_rope, mul_mat_qkv, topk_moe
from graphsched.graph.ops.moe import GATINGS
from graphsched.graph.tensor import Tensor, layer_of

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


def _nodes(graph: Graph, op: Op) -> Iterator[Tensor]:
    return (node for node in graph.nodes if node.op is op)


def add_rms_norm(graph: Graph, readers: Readers) -> Iterator[Join]:
    """FUSED_RMS_NORM(ADD(x, y), w) -> FUSED_ADD_RMS_NORM: the sum, and its norm"""
    for norm in _nodes(graph, Op.FUSED_RMS_NORM):
        total, w = norm.sources
        if total.op is Op.ADD and len({s.shape for s in (total, *total.sources)}) == 1:
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
    if node.op is not Op.MUL_MAT or node.sources[1] is not x or node.attrs["rows"]:
        return False
    w = node.sources[0]
    return w.kind == "weight" and len(w.shape) == 2 and stem_of(w, node).startswith("attn_")


def experts(graph: Graph, readers: Readers) -> Iterator[Join]:
    """SOFT_MAX or sigmoid, ARGSORT, GET_ROWS of the chosen, what bias, norm and scale there are -> TOPK_MOE"""
    for node in graph.nodes:
        if node.op in (Op.ARGSORT, Op.GROUPED_TOPK):
            found = _choice(node, readers)
            if found is not None and _is_closed(found, readers):
                yield found


def _is_closed(found: Join, readers: Readers) -> bool:
    """Whether nothing else reads what the op does not give."""
    own = set(found.nodes)
    return all(own.issuperset(readers.get(node, ())) for node in found.inside)


def _choice(ids: Tensor, readers: Readers) -> Join | None:
    """The choice of experts around a top-k: what its scores are made of, and what becomes of the weights."""
    score = ids.sources[0]
    weights = [n for n in readers.get(ids, ()) if n.op is Op.GET_ROWS and n.sources[1] is ids]
    if len(weights) != 1:
        return None
    probs, chosen = weights[0].sources[0], _Weights([weights[0]], readers)
    bias, gating = _bias_of(score, probs), _gating(probs)
    if (bias is None) != (score is probs):
        return None
    logits, inside = probs, list(dict.fromkeys((score, probs)))
    if gating:
        logits = probs.sources[0]
    else:  # the chosen logits become weights
        inside.remove(probs)
        gating = f"{_gating(chosen.follow(Op.SOFT_MAX, Op.UNARY))}_weight"
        if gating not in GATINGS:
            return None
    attrs = {**ids.attrs, "gating": gating, "least": chosen.least(), "by": chosen.scaled()}
    made = topk_moe(logits, *([] if bias is None else [bias]), **attrs)
    return Join(made, (ids, chosen.last), (*inside, *chosen.nodes[:-1]))


def _gating(node: Tensor | None) -> str:
    """How a node makes probabilities, if it does."""
    if node is None or node.op not in (Op.SOFT_MAX, Op.UNARY):
        return ""
    if node.op is Op.UNARY:
        return "sigmoid" if node.attrs["kind"] == "sigmoid" else ""
    return "softmax" if len(node.sources) == 1 and node.attrs["scale"] == 1.0 else ""


def _bias_of(score: Tensor, probs: Tensor) -> Tensor | None:
    """What is added to the probabilities for the choice."""
    if score.op is not Op.ADD or score.sources[0] is not probs:
        return None
    bias = score.sources[1]
    return bias if bias.kind == "weight" and bias.shape == probs.shape[-1:] else None


@dataclass
class _Weights:
    """The nodes behind the chosen experts' probabilities, as far as each is all that reads the one before."""

    nodes: list[Tensor]
    readers: Readers

    @property
    def last(self) -> Tensor:
        return self.nodes[-1]

    def follow(self, *ops: Op) -> Tensor | None:
        """The only reader, if it is one of these ops, which then is the last node."""
        users = self.readers.get(self.last, ())
        if len(users) != 1 or users[0].op not in ops:
            return None
        self.nodes.append(users[0])
        return users[0]

    def least(self) -> float | None:
        """Takes the division by the sum; what the sum is at least."""
        weights, users = self.last, self.readers.get(self.last, ())
        if [n.op for n in users] != [Op.SUM_ROWS, Op.DIV]:
            return None
        total, share = users
        bound = share.sources[1]
        plain = bound.op is Op.CLAMP and bound.sources == (total,) and bound.attrs["high"] == float("inf")
        if not plain or share.sources[0] is not weights:
            return None
        self.nodes += [total, bound, share]
        return float(bound.attrs["low"])

    def scaled(self) -> float:
        found = self.follow(Op.SCALE)
        return 1.0 if found is None else float(found.attrs["by"])


# Named as the switches that turn them off.
RULES: Final[Mapping[str, Rule]] = {
    "merge-qkv": qkv,
    "fused-rope": rope_pairs,
    "fused-add-rms-norm": add_rms_norm,
    "fused-topk-moe": experts,
}
