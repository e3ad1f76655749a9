"""Which fused ops a GPU takes whole: lowerings ask, and simulated devices, which fuse what a GPU does.

Nothing here needs a driver, a compiler or a lowering.
"""

from collections.abc import Callable, Mapping
from typing import Final

from graphsched.backends.cuda.launch.weights import TYPES, is_tiled
from graphsched.graph.opdef import AnyOp, Op
from graphsched.graph.tensor import Tensor
from graphsched.types import dtypes

ACTIVATIONS: Final = ("silu", "gelu", "relu2", "relu", "sigmoid")  # as activation.cuh numbers them
CACHE_BLOCKS: Final = {t: t.name.lower() for t in dtypes.KV_TYPES if t.block > 1}
TOP_MOST, MOST_GROUPS, MOST_USED = 512, 32, 32  # experts of a choice, their groups, and how many are chosen


def takes_whole(node: Tensor) -> bool:
    """Whether kernels take an op that is defined by others as one; of any other op True."""
    if node.declaration.compose is None:
        return True
    rule = _RULES.get(node.declaration.op)
    return rule is not None and rule(node)


def _always(node: Tensor) -> bool:
    return True


def _in_rows(node: Tensor) -> bool:
    return len(node.sources[0].shape) == 2


def _one_token_qkv(node: Tensor) -> bool:
    x, *weights = node.sources
    return _is_one_launch(x, weights)


def _one_token_up_gate(node: Tensor) -> bool:
    *weights, x = node.sources
    return node.attrs["kind"] in ACTIVATIONS and _is_one_launch(x, weights)


def _is_one_launch(x: Tensor, weights: list[Tensor]) -> bool:
    """Mat-vecs of one token with matrices of one type; those of ternary matrices take any number of tokens."""
    first = weights[0].type
    are_matrices = all(w.kind in ("weight", "copy") and len(w.shape) == 2 for w in weights)
    if len(x.shape) != 2 or not are_matrices or first.dtype not in TYPES:
        return False
    return int(x.shape[0]) == 1 or all(is_tiled(w.type) for w in weights)


def _few_experts(node: Tensor) -> bool:
    logits, a = node.sources[0], node.attrs
    fits = len(logits.shape) == 2 and int(logits.shape[-1]) <= TOP_MOST
    return fits and a["k"] <= MOST_USED and a["n_group"] <= MOST_GROUPS


def _whole_blocks(node: Tensor) -> bool:
    """A row of either cache is a number of blocks."""
    caches, dtype = node.sources[0:3:2], node.attrs["dtype"]
    return dtype not in CACHE_BLOCKS or all(c.shape[-1] % dtype.block == 0 for c in caches)


_RULES: Final[Mapping[AnyOp, Callable[[Tensor], bool]]] = {
    Op.FUSED_ADD_RMS_NORM: _in_rows,
    Op.FUSED_ROPE: _always,
    Op.FUSED_SET_ROWS: _whole_blocks,
    Op.MUL_MAT_QKV: _one_token_qkv,
    Op.MUL_MAT_UP_GATE: _one_token_up_gate,
    Op.MUL_MULTI_ADD: _always,
    Op.TOPK_MOE: _few_experts,
}
