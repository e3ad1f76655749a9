"""Rewrites of the op graph: output rows selected early, and fusions.

A fused op is defined as the composition of its parts, so that results are the same with and without.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from graphsched.graph.graph import Graph, from_nodes, from_outputs, reachable
from graphsched.graph.opdef import Op
from graphsched.graph.ops import (
    copy_f32,
    fused_mul_unary,
    fused_rms_norm,
    get_rows,
    moe_fused_up_gate,
    mul_mat,
    permute,
    soft_cap_max,
    soft_max,
)
from graphsched.graph.tensor import Extent, Tensor

Rule = Callable[[Tensor, Callable[[Tensor], bool]], Tensor | None]


def select_outputs(logits: Tensor, out_ids: Tensor) -> Graph:
    """The graph that computes logits for the rows in out_ids only.

    The selection moves up through ops that work row by row, to the last layer's attention, so that a prompt whose
    last row alone is wanted skips that layer's feed-forward and the output matrix for all others.
    """
    whole = _needed_whole(logits)
    done: dict[Tensor, Tensor] = {}

    def rows(x: Tensor) -> Tensor:
        if x not in done:
            done[x] = _with_rows(x, rows, out_ids) if x not in whole and _passes(x) else get_rows(x, out_ids)
        return done[x]

    return from_outputs(rows(logits))


def _needed_whole(logits: Tensor) -> set[Tensor]:
    """Nodes of which some op that mixes rows needs every row."""
    mixing = [n for n in reachable([logits]) if not _passes(n)]
    return set(reachable([s for n in mixing for s in n.sources]))


def _passes(node: Tensor) -> bool:
    """Whether selecting rows of the result equals selecting rows of the operands."""
    if node.opdef is None or not isinstance(node.shape[0], Extent):
        return False
    by_row = [s for s in node.sources if s.shape and isinstance(s.shape[0], Extent)]
    return node.opdef.rowwise(node) and all(s.kind == "node" for s in by_row)


def _with_rows(node: Tensor, rows: Callable[[Tensor], Tensor], out_ids: Tensor) -> Tensor:
    """The node on selected rows of its sources."""
    wide, narrow = node.shape[0], out_ids.shape[0]
    sources = [rows(s) if s.shape and s.shape[0] is wide else s for s in node.sources]
    attrs = {k: _swap(v, wide, narrow) for k, v in node.attrs.items()}
    return replace(node.declaration(*sources, **attrs), label=node.label)


def _swap(value: Any, old: int, new: int) -> Any:
    return tuple(new if v is old else v for v in value) if isinstance(value, tuple) else value


def fuse(graph: Graph, rules: Mapping[str, Rule]) -> Graph:
    """Applies fusion rules to every node, in order; parts that nothing else uses disappear."""
    readers, outputs = graph.readers, set(graph.outputs)

    def only_used_once(node: Tensor) -> bool:
        return len(readers[node]) == 1 and node not in outputs

    new: dict[Tensor, Tensor] = {}
    for node in graph.nodes:
        made = next((m for rule in rules.values() if (m := rule(node, only_used_once))), node)
        new[node] = made.over(new.get(s, s) for s in made.sources)
    kept = [new[o] for o in graph.outputs]
    alive = set(reachable(kept))
    return from_nodes((n for n in (new[o] for o in graph.nodes) if n in alive), kept)


def rms_norm_mul(node: Tensor, single: Callable[[Tensor], bool]) -> Tensor | None:
    """MUL(RMS_NORM(x), w) -> FUSED_RMS_NORM(x, w)"""
    if node.op is not Op.MUL or node.sources[0].op is not Op.RMS_NORM or not single(node.sources[0]):
        return None
    inner, w = node.sources
    if w.kind != "weight" or w.shape != inner.shape[-1:]:
        return None
    return replace(fused_rms_norm(inner.sources[0], w, eps=inner.attrs["eps"]), serial=node.serial)


def mul_unary(node: Tensor, single: Callable[[Tensor], bool]) -> Tensor | None:
    """MUL(UNARY(a), b) -> FUSED_MUL_UNARY(a, b), or MOE_FUSED_UP_GATE if a and b are products of the same experts"""
    if node.op is not Op.MUL or node.sources[0].op is not Op.UNARY or not single(node.sources[0]):
        return None
    gate, up, kind = node.sources[0].sources[0], node.sources[1], node.sources[0].attrs["kind"]
    if gate.shape != up.shape:
        return None
    return replace(fused_mul_unary(gate, up, kind=kind), serial=node.serial)


def up_gate(node: Tensor, single: Callable[[Tensor], bool]) -> Tensor | None:
    """FUSED_MUL_UNARY(MUL_MAT_ID(gate, x, ids), MUL_MAT_ID(up, x, ids)) -> MOE_FUSED_UP_GATE"""
    if node.op is not Op.FUSED_MUL_UNARY or not all(
        s.op is Op.MUL_MAT_ID and single(s) for s in node.sources
    ):
        return None
    gate, up = node.sources
    if gate.sources[1:] != up.sources[1:] or gate.sources[0].type != up.sources[0].type:
        return None
    made = moe_fused_up_gate(up.sources[0], gate.sources[0], *up.sources[1:], kind=node.attrs["kind"])
    return replace(made, label="ffn_moe_gate_par", serial=node.serial)


def attention_in_parts(graph: Graph) -> Graph:
    """FLASH_ATTN_EXT -> MUL_MAT kq, SOFT_MAX kq_soft_max_ext, MUL_MAT kqv: the products are there to see."""
    nodes: list[Tensor] = []
    new: dict[Tensor, Tensor] = {}
    for node in graph.nodes:
        made = node.over(new.get(s, s) for s in node.sources)
        nodes += _parts_of(made, graph.labels[node]) if node.op is Op.FLASH_ATTN_EXT else [made]
        new[node] = nodes[-1]
    return from_nodes(nodes, [new[o] for o in graph.outputs])


def _parts_of(node: Tensor, label: str) -> list[Tensor]:
    """The nodes that compute attention over keys and values [cells, heads, width] in the order they run."""
    q, k, v, *mask = node.sources
    attrs = {name: value for name, value in node.attrs.items() if name != "softcap"}
    keys = replace(permute(k, axes=(1, 0, 2)), label="k")
    kq = replace(mul_mat(keys, q), label="kq")
    cap = node.attrs["softcap"]
    chances = soft_cap_max(kq, *mask, cap=cap, **attrs) if cap else soft_max(kq, *mask, **attrs)
    chances = replace(chances, label="kq_soft_max_ext")
    copied = [copy_f32(v)] if v.dtype.block > 1 else []  # blocks cannot be read across cells
    values = replace(permute(*(copied or [v]), axes=(1, 2, 0)), label="v")
    kqv = replace(mul_mat(values, chances), label="kqv" if label == "fa" else label)
    return [keys, kq, chances, *copied, values, kqv]


# Named as the switches that turn them off.
PASSES: tuple[Mapping[str, Rule], ...] = (
    {"fused-rms-norm": rms_norm_mul, "fused-mul-unary": mul_unary},
    {"fmoe": up_gate},
)


def fuse_all(graph: Graph, off: frozenset[str] = frozenset()) -> Graph:
    """All fusions but those named in `off`; attention is one op unless `fa` is among them."""
    if "fa" in off:
        graph = attention_in_parts(graph)
    for rules in PASSES:
        graph = fuse(graph, {name: rule for name, rule in rules.items() if name not in off})
    return graph
