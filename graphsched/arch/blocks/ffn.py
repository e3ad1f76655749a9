"""Dense feed-forward layers."""

from collections.abc import Callable

from graphsched.arch.blocks.linear import linear
from graphsched.arch.weights import Weights
from graphsched.graph.ops import clamp, gelu, relu, silu, sqr, view
from graphsched.graph.tensor import Tensor

Activation = Callable[[Tensor], Tensor]
Gate = Callable[[Tensor, Tensor], Tensor]  # of a gated layer: (gate · x, up · x) -> what ffn_down multiplies


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up"""
    return silu(gate) * up


def clamped_swiglu(limit: float) -> Gate:
    """silu(min(gate, limit)) · up, that within ±limit; no limits at 0"""

    def activation(gate: Tensor, up: Tensor) -> Tensor:
        return silu(clamp(gate, low=-float("inf"), high=limit)) * clamp(up, low=-limit, high=limit)

    return activation if limit > 1e-6 else swiglu


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) · up"""
    return gelu(gate) * up


def gated_ffn(
    blk: Weights, x: Tensor, suffix: str = "", activation: Gate = swiglu, *, bias: bool | None = None
) -> Tensor:
    """down(activation(gate(x), up(x))) by the weights ffn_gate, ffn_up, ffn_down with `suffix`. [T, D] -> [T, D]

    bias: as in `linear`, of each of them.
    """
    gate = linear(blk, f"ffn_gate{suffix}", x, bias=bias)
    up = linear(blk, f"ffn_up{suffix}", x, gate.shape[1], bias=bias)
    return linear(blk, f"ffn_down{suffix}", activation(gate, up), x.shape[1], bias=bias)


def plain_ffn(blk: Weights, x: Tensor, act: Activation, suffix: str = "") -> Tensor:
    """down(act(up(x))) by the weights ffn_up and ffn_down with `suffix`, without a gate. [T, D] -> [T, D]"""
    return linear(blk, f"ffn_down{suffix}", act(linear(blk, f"ffn_up{suffix}", x)), x.shape[1])


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)²"""
    return sqr(relu(x))


def gate_up_ffn(blk: Weights, x: Tensor) -> Tensor:
    """As gated_ffn, for files whose ffn_up has the rows of the gate in front of its own. [T, D] -> [T, D]"""
    half = blk.sized("ffn_down", x.shape[1], None).shape[1]
    both = linear(blk, "ffn_up", x, 2 * half)
    gate, up = view(both, start=0, stop=half), view(both, start=half, stop=2 * half)
    return linear(blk, "ffn_down", swiglu(gate, up), x.shape[1])
