"""Fusions of nodes that are one launch on a GPU: gate and up with their activation, weighted sums, cache writes."""

from collections.abc import Iterator

from graphsched.graph.graph import Graph
from graphsched.graph.opdef import Op
from graphsched.graph.ops import fused_set_rows, mul_mat_up_gate, mul_multi_add
from graphsched.graph.rewrites.fusion import Fusion
from graphsched.graph.tensor import Tensor, layer_of


def cache_rows(graph: Graph) -> Iterator[Fusion]:
    """SET_ROWS of keys, of values of a layer, into the same cells of caches of one type -> FUSED_SET_ROWS"""
    waiting: dict[object, Tensor] = {}
    for node in graph.nodes:
        if node.op is not Op.SET_ROWS:
            continue
        alike = layer_of(node.sources[0].name), node.dtype.id, node.shape[0], node.sources[2]
        k = waiting.pop(alike, None)
        if k is None:
            waiting[alike] = node
        else:
            yield Fusion(fused_set_rows(*k.sources[:2], *node.sources, dtype=node.dtype), (k, node))


def dense_up_gate(graph: Graph) -> Iterator[Fusion]:
    """FUSED_MUL_UNARY(MUL_MAT(gate, x), MUL_MAT(up, x)), or with SQR(relu) -> MUL_MAT_UP_GATE"""
    for node in graph.nodes:
        squared = _squared_relu(node)
        if node.op is not Op.FUSED_MUL_UNARY and not squared:
            continue
        gate, kind = (squared[-1].sources[0], "relu2") if squared else (node.sources[0], node.attrs["kind"])
        up = node.sources[1]
        if gate is not up and _is_product(gate) and _is_product(up) and gate.sources[1] is up.sources[1]:
            (w, x), other = up.sources, gate.sources[0]
            if w.type == other.type:
                yield Fusion(mul_mat_up_gate(w, other, x, kind=kind), (node,), (gate, up, *squared))


def _squared_relu(node: Tensor) -> tuple[Tensor, ...]:
    """The square and the relu in sqr(relu(gate)) · up."""
    if node.op is not Op.MUL or node.sources[0].op is not Op.SQR:
        return ()
    square = node.sources[0]
    inner = square.sources[0]
    return (square, inner) if inner.op is Op.UNARY and inner.attrs["kind"] == "relu" else ()


def _is_product(node: Tensor) -> bool:
    """Whether a node is the product with a whole matrix of weights."""
    if node.op is not Op.MUL_MAT or node.attrs["rows"]:
        return False
    return node.sources[0].kind == "weight" and len(node.sources[0].shape) == 2


def weighted_sums(graph: Graph) -> Iterator[Fusion]:
    """MULTI_ADD(MUL(x, w)) with a weight for each row -> MUL_MULTI_ADD"""
    for node in graph.nodes:
        if node.op is not Op.MULTI_ADD or node.sources[0].op is not Op.MUL:
            continue
        x, w = node.sources[0].sources
        if w.shape == (*x.shape[:2], 1):
            yield Fusion(mul_multi_add(x, w), (node,), (node.sources[0],))
