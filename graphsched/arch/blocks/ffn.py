"""Dense feed-forward layers."""

from collections.abc import Callable

from graphsched.arch.blocks.linear import linear
from graphsched.arch.weights import Weights
from graphsched.graph.ops import relu, silu, sqr, view
from graphsched.graph.tensor import Tensor

Activation = Callable[[Tensor], Tensor]
Gate = Callable[[Tensor, Tensor], Tensor]


def gated_ffn(
    blk: Weights, x: Tensor, suffix: str = "", act: Activation = silu, join: Gate | None = None
) -> Tensor:
    """down(act(gate(x)) · up(x)), or down(join(gate(x), up(x))); `suffix` picks ffn_*_shexp"""
    gate = linear(blk, f"ffn_gate{suffix}", x)
    up = linear(blk, f"ffn_up{suffix}", x, gate.shape[1])
    return linear(blk, f"ffn_down{suffix}", join(gate, up) if join else act(gate) * up, x.shape[1])


def plain_ffn(blk: Weights, x: Tensor, act: Activation) -> Tensor:
    """down(act(up(x))): no gate"""
    return linear(blk, "ffn_down", act(linear(blk, "ffn_up", x)), x.shape[1])


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)²"""
    return sqr(relu(x))


def joined_ffn(blk: Weights, x: Tensor) -> Tensor:
    """As gated_ffn, with gate and up as the halves of one matrix."""
    half = blk.sized("ffn_down", x.shape[1], None).shape[1]
    both = linear(blk, "ffn_up", x, 2 * half)
    gate, up = view(both, start=0, stop=half), view(both, start=half, stop=2 * half)
    return linear(blk, "ffn_down", silu(gate) * up, x.shape[1])
