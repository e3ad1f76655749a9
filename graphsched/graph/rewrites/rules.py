"""All fusions, in the order in which they are tried: a rule is a function that finds them, and a line in RULES."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from graphsched.graph.graph import Graph
from graphsched.graph.labels import stem_of
from graphsched.graph.opdef import AnyOp, Op, OpDef
from graphsched.graph.ops import (
    fused_add_rms_norm,
    fused_mul_unary,
    fused_norm,
    fused_rms_norm,
    fused_rope,
    moe_fused_up_gate,
    mul_mat_qkv,
)
from graphsched.graph.rewrites.fusion import Fusion, Rule
from graphsched.graph.rewrites.launches import cache_rows, dense_up_gate, weighted_sums
from graphsched.graph.rewrites.routing import experts
from graphsched.graph.tensor import Tensor, labelled, layer_of

MOST_MATRICES: Final = 3


def _nodes(graph: Graph, op: Op) -> Iterator[Tensor]:
    return (node for node in graph.nodes if node.op is op)


WEIGHTED: Final[Mapping[AnyOp | None, OpDef[Any]]] = {Op.RMS_NORM: fused_rms_norm, Op.NORM: fused_norm}


def norm_mul(graph: Graph) -> Iterator[Fusion]:
    """MUL(RMS_NORM(x), w) -> FUSED_RMS_NORM(x, w), MUL(NORM(x), w) -> FUSED_NORM(x, w)"""
    for node in _nodes(graph, Op.MUL):
        inner, w = node.sources
        if inner.op in WEIGHTED and w.kind == "weight" and w.shape == inner.shape[-1:]:
            made = WEIGHTED[inner.op](inner.sources[0], w, eps=inner.attrs["eps"])
            yield Fusion(made, (node,), (inner,))


def mul_unary(graph: Graph) -> Iterator[Fusion]:
    """MUL(UNARY(a), b) -> FUSED_MUL_UNARY(a, b)"""
    for node in _nodes(graph, Op.MUL):
        unary, up = node.sources
        if unary.op is Op.UNARY and unary.shape == up.shape:
            yield Fusion(fused_mul_unary(unary.sources[0], up, kind=unary.attrs["kind"]), (node,), (unary,))


def up_gate(graph: Graph) -> Iterator[Fusion]:
    """FUSED_MUL_UNARY(MUL_MAT_ID(gate, x, ids), MUL_MAT_ID(up, x, ids)) -> MOE_FUSED_UP_GATE"""
    for node in _nodes(graph, Op.FUSED_MUL_UNARY):
        gate, up = node.sources
        if not gate.op is up.op is Op.MUL_MAT_ID or gate.sources[1:] != up.sources[1:]:
            continue
        if gate.sources[0].type == up.sources[0].type:
            made = moe_fused_up_gate(up.sources[0], gate.sources[0], *up.sources[1:], kind=node.attrs["kind"])
            yield Fusion(labelled(made, "ffn_moe_gate_par"), (node,), (gate, up))


def add_rms_norm(graph: Graph) -> Iterator[Fusion]:
    """FUSED_RMS_NORM(ADD(x, y), w) -> FUSED_ADD_RMS_NORM: the sum, and its norm"""
    for norm in _nodes(graph, Op.FUSED_RMS_NORM):
        total, w = norm.sources
        if total.op is Op.ADD and len({s.shape for s in (total, *total.sources)}) == 1:
            x, y = total.sources
            yield Fusion(fused_add_rms_norm(x, y, w, eps=norm.attrs["eps"]), (total, norm))


def rope_pairs(graph: Graph) -> Iterator[Fusion]:
    """ROPE(q), ROPE(k) of a layer, by the same angles -> FUSED_ROPE"""
    waiting: dict[object, Tensor] = {}
    for node in _nodes(graph, Op.ROPE):
        alike = layer_of(graph.names[node]), node.attrs["rope"], node.shape[2], node.sources[1:]
        q = waiting.pop(alike, None)
        if q is None:
            waiting[alike] = node
        else:
            made = fused_rope(q.sources[0], node.sources[0], *node.sources[1:], rope=node.attrs["rope"])
            yield Fusion(made, (q, node))


def qkv(graph: Graph) -> Iterator[Fusion]:
    """MUL_MATs of one x with the matrices of an attention that have one type -> MUL_MAT_QKV"""
    for x, nodes in graph.readers.items():
        alike: dict[int, list[Tensor]] = {}
        for node in nodes:
            if _is_projection(node, x):
                alike.setdefault(node.sources[0].dtype.id, []).append(node)
        for group in alike.values():
            if 1 < len(group) <= MOST_MATRICES:
                yield Fusion(mul_mat_qkv(x, *(n.sources[0] for n in group)), tuple(group))


def _is_projection(node: Tensor, x: Tensor) -> bool:
    if node.op is not Op.MUL_MAT or node.sources[1] is not x or node.attrs["rows"]:
        return False
    w = node.sources[0]
    return w.kind == "weight" and len(w.shape) == 2 and stem_of(w, node).startswith("attn_")


RULES: Final = (
    Rule("fused-rms-norm", norm_mul, "homes"),
    Rule("fused-mul-unary", mul_unary, "homes"),
    Rule("fmoe", up_gate, "homes"),
    Rule("merge-qkv", qkv, "devices"),
    Rule("fused-rope", rope_pairs, "devices"),
    Rule("fused-add-rms-norm", add_rms_norm, "devices"),
    Rule("fused-topk-moe", experts, "devices"),
    Rule("fused-up-gate", dense_up_gate, "devices"),
    Rule("fused-mul-multi-add", weighted_sums, "devices"),
    Rule("fused-set-rows", cache_rows, "devices"),
)
