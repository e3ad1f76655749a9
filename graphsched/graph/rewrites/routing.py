"""The fusion of an expert router: from logits to the chosen experts and their weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphsched.graph.graph import Graph
from graphsched.graph.opdef import Op
from graphsched.graph.ops import topk_moe
from graphsched.graph.ops.moe import GATINGS
from graphsched.graph.rewrites.fusion import Fusion
from graphsched.graph.tensor import Tensor

Readers = Mapping[Tensor, Sequence[Tensor]]


def experts(graph: Graph) -> Iterator[Fusion]:
    """SOFT_MAX or sigmoid, ARGSORT, GET_ROWS; bias, norm and scale as far as there are any -> TOPK_MOE"""
    for node in graph.nodes:
        if node.op in (Op.ARGSORT, Op.GROUPED_TOPK):
            found = _choice(node, graph.readers)
            if found is not None:
                yield found


def _choice(ids: Tensor, readers: Readers) -> Fusion | None:
    """The choice of experts around a top-k: what its scores are made of, and what becomes of the weights."""
    score = ids.sources[0]
    weights = [n for n in readers[ids] if n.op is Op.GET_ROWS and n.sources[1] is ids]
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
    return Fusion(made, (ids, chosen.last), (*inside, *chosen.nodes[:-1]))


def _gating(node: Tensor | None) -> str:
    """The gating of a node that makes probabilities, "softmax" or "sigmoid"; empty for any other."""
    if node is None or node.op not in (Op.SOFT_MAX, Op.UNARY):
        return ""
    if node.op is Op.UNARY:
        return "sigmoid" if node.attrs["kind"] == "sigmoid" else ""
    return "softmax" if len(node.sources) == 1 and node.attrs["scale"] == 1.0 else ""


def _bias_of(score: Tensor, probs: Tensor) -> Tensor | None:
    """The bias that an ADD gives the probabilities for the choice alone."""
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
        users = self.readers[self.last]
        if len(users) != 1 or users[0].op not in ops:
            return None
        self.nodes.append(users[0])
        return users[0]

    def least(self) -> float | None:
        """Takes the division by the sum; what the sum is at least."""
        weights, users = self.last, self.readers[self.last]
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
