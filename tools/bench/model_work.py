"""What a model asks of a machine: bytes that a token must read, integer operations of a prompt. From the header."""

from pathlib import Path

from graphsched.graph.cost import cost_of
from graphsched.graph.opdef import Op
from graphsched.graph.tensor import Tensor
from graphsched.session.model import open_default_or
from graphsched.session.options import SessionOptions
from graphsched.types import dtypes


def token_bytes(path: Path) -> float:
    """Weights that one token reads: each matrix once, of experts those that are chosen, of the embedding one row."""
    model = open_default_or(path)
    found: dict[str, float] = {}
    for node in model.graph(1, 1, 256, SessionOptions()).nodes:
        if node.opdef is not None and node.opdef.op is not Op.GET_ROWS:
            for leaf in node.sources:
                if leaf.kind == "weight":
                    found[model.weights.stored_as(leaf.name)] = leaf.type.nbytes * _used(node, leaf)
    return sum(found.values())


def _used(node: Tensor, leaf: Tensor) -> float:
    """Which part of a weight a node reads: of experts as many as there are ids."""
    ids = [s for s in node.sources if s.dtype == dtypes.I32 and len(s.shape) == 2]
    if len(leaf.shape) != 3 or not ids:
        return 1.0
    return min(ids[-1].type.numel, leaf.shape[0]) / leaf.shape[0]


def prompt_ops(path: Path, n_tokens: int) -> float:
    """Operations of a prompt's products with quantised weights; a product and its sum are two."""
    graph = open_default_or(path).graph(n_tokens, 1, n_tokens, SessionOptions())
    costs = (cost_of(node, {}) for node in graph.nodes)
    return sum(cost.flops for cost in costs if cost.kind == "int8")
