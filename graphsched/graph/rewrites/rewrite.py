"""Rewrites of the op graph: output rows selected early, and attention in parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from graphsched.graph.graph import Graph, from_nodes, from_outputs, reachable
from graphsched.graph.opdef import Op
from graphsched.graph.ops import (
    get_rows,
    mul_mat,
    permute,
    soft_cap_max,
    soft_max,
)
from graphsched.graph.tensor import Extent, Pool, Tensor, TensorType


class Gathering(Protocol):
    """Inputs that gather the cells of a run's sequences: where they are, and the (slot, position) of each."""

    @property
    def ids(self) -> Tensor: ...
    @property
    def cells(self) -> Tensor: ...


Own = Callable[[Tensor], Gathering]


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


def behind_layers(logits: Tensor) -> Tensor:
    """What the output matrix is multiplied with: the last product with a weight of no layer makes logits of it."""
    for node in reversed(reachable([logits])):
        weights = [s for s in node.operands(node.traits.product) if s.kind == "weight"]
        if weights and not weights[0].name.startswith("blk."):
            return next(s for s in node.sources if s not in weights)
    raise ValueError("a graph of logits has no product with an output matrix")


def _needed_whole(logits: Tensor) -> set[Tensor]:
    """Nodes of which every row is needed, since some op that reads them mixes rows."""
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


def unfused_attention(graph: Graph, own: Own) -> Graph:
    """FLASH_ATTN_EXT -> GET_ROWS k and v, MUL_MAT kq, SOFT_MAX kq_soft_max_ext, MUL_MAT kqv: the products are to see.

    own(table) has the inputs that gather the cells which a table names.
    """
    nodes: list[Tensor] = []
    new: dict[Tensor, Tensor] = {}
    for node in graph.nodes:
        made = node.over(new.get(s, s) for s in node.sources)
        nodes += _unfused(made, graph.labels[node], own) if node.op is Op.FLASH_ATTN_EXT else [made]
        new[node] = nodes[-1]
    return from_nodes(nodes, [new[o] for o in graph.outputs])


def _unfused(node: Tensor, label: str, own: Own) -> list[Tensor]:
    """The nodes that compute attention over keys and values [cells, heads, width] in the order they run."""
    q, k, v, where, table, *sinks = node.sources
    gathered: list[Tensor] = []
    k, v = (_gathered(x, own(table).ids, gathered) for x in (k, v))
    mask = where, own(table).cells, *sinks
    attrs = {name: value for name, value in node.attrs.items() if name != "softcap"}
    keys = replace(permute(k, axes=(1, 0, 2)), label="k")
    kq = replace(mul_mat(keys, q), label="kq")
    cap, bias = node.attrs["softcap"], attrs.pop("max_bias")  # never both
    chances = (
        soft_cap_max(kq, *mask, cap=cap, **attrs) if cap else soft_max(kq, *mask, max_bias=bias, **attrs)
    )
    chances = replace(chances, label="kq_soft_max_ext")
    values = replace(permute(v, axes=(1, 2, 0)), label="v")
    kqv = replace(mul_mat(values, chances), label="kqv" if label == "fa" else label)
    return [*gathered, keys, kq, chances, values, kqv]


def _gathered(x: Tensor, ids: Tensor, nodes: list[Tensor]) -> Tensor:
    """Cells of a pool as rows of their own, one after the other; what is no pool is gathered already.

    Adds the nodes to `nodes`; keys and values that are parts of the same rows are gathered once.
    """
    if not isinstance(x.shape[0], Pool):
        return x
    if x.traits.view:
        made = x.over(_gathered(s, ids, nodes) for s in x.sources)
        made = replace(made, type=TensorType(made.sources[0].dtype, (ids.shape[0], *x.shape[1:])))
    elif found := next((n for n in nodes if n.sources[:1] == (x,)), None):
        return found
    else:
        made = get_rows(x, ids)
    nodes.append(made)
    return made
