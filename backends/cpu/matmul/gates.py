"""Gated units: kind(a) · b, by elements of two tensors."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import Kernel, kernel
from graphsched.backends.cpu.language.lanes import for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.mathfn import KINDS, SWIGLU_OAI, gated_product
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand

GATE_UNIT = 256  # elements of a row per unit, so that one token's row is shared by all threads


@kernel("a b -> y | n heads a_token a_head b_token b_head | alpha limit")
def mul_unary_f32(kind: int) -> Callable[..., None]:
    """y = kind(a) · b, rows of n floats in units of GATE_UNIT; alpha and limit are those of SWIGLU_OAI."""

    def mul_unary(step: int, run: int, ith: int, nth: int) -> None:
        a, b, y, n, heads, a_token, a_head, b_token, b_head, alpha, limit = arguments(step)
        per_row = (n + GATE_UNIT - 1) // GATE_UNIT
        first, last = share(rows(step, run) * per_row, ith, nth)
        for unit in range(first, last):
            r, start = unit // per_row, unit % per_row * GATE_UNIT
            t, h = r // heads, r % heads
            pa, pb, py = a + t * a_token + h * a_head, b + t * b_token + h * b_head, y + 4 * r * n
            end = start + GATE_UNIT if start + GATE_UNIT < n else n
            gate_lanes(end - start, kind, pa + 4 * start, pb + 4 * start, py + 4 * start, alpha, limit)

    return mul_unary


@for_lanes(16)
def gate_lanes(i: int, block: Any, kind: int, a: int, b: int, y: int, alpha: float, limit: float) -> None:
    """y = kind(a) · b, a stretch of n floats; called with (n, kind, ...)."""
    va, vb = load_lanes(a + 4 * i, F32, block), load_lanes(b + 4 * i, F32, block)
    store_lanes(y + 4 * i, gated_product(kind, va, vb, alpha, limit), F32, block)


def gate_up(
    low: Low, kernel: Kernel, a: Operand, b: Operand, y: Operand, alpha: float = 0.0, limit: float = 0.0
) -> None:
    """Adds the step of y = kind(a) · b, whose kernel is `mul_unary_f32(kind)`."""
    n, strides = y.type.shape[-1], row_strides(a=a, b=b)
    low.step(kernel, a=a, b=b, y=y, n=n, **strides, alpha=alpha, limit=limit, rows=rows_of(y.type))


@ops.fused_mul_unary.lowering("cpu", strided=("a", "b"))
def _(low: Low, node: Tensor) -> None:
    a, b = map(low.operand, node.sources)
    gate_up(low, mul_unary_f32(KINDS[node.attrs["kind"]]), a, b, low.result(node, in_place_of=node.sources))


@ops.swiglu_oai.lowering("cpu", strided=("gate", "up"))
def _(low: Low, node: Tensor) -> None:
    a, b = map(low.operand, node.sources)
    y = low.result(node, in_place_of=node.sources)
    gate_up(low, mul_unary_f32(SWIGLU_OAI), a, b, y, node.attrs["alpha"], node.attrs["limit"])
