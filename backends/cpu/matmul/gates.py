"""Gated units: kind(a) · b, by elements of two tensors."""

from collections.abc import Callable

from graphsched.backends.cpu.language.jit import Kernel, kernel
from graphsched.backends.cpu.language.mathfn import KINDS, SWIGLU_OAI, gated_product
from graphsched.backends.cpu.language.simd import load, load_first, store, store_first
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
            full = start + (end - start) // 16 * 16
            for i in range(start, full, 16):
                v = gated_product(kind, load(pa + 4 * i, F32, 16), load(pb + 4 * i, F32, 16), alpha, limit)
                store(py + 4 * i, v, F32)
            if full < end:
                left = end - full
                va, vb = load_first(pa + 4 * full, F32, 16, left), load_first(pb + 4 * full, F32, 16, left)
                store_first(py + 4 * full, gated_product(kind, va, vb, alpha, limit), F32, left)

    return mul_unary


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
