"""Launches of norm.cu."""

from graphsched import dtypes, ops
from graphsched.backends.cuda.call import Address, Call, threads
from graphsched.backends.cuda.lowering import At, Low, in_rows, row_stride
from graphsched.operand import Operand, Out
from graphsched.tensor import Tensor


def rms_norm(
    x: Address, w: Address, y: Address, rows: int, k: int, x_stride: int, y_stride: int, eps: float
) -> Call:
    """y = x / sqrt(mean(x²) + eps) · w; w may be None."""
    return Call("norm", (), "rms_norm", (rows,), threads(k), (x, w, y, k, x_stride, y_stride, eps))


def add_rms_norm(
    x: Address, r: Address, w: Address, z: Address, y: Address, rows: int, k: int, eps: float
) -> Call:
    """z = x + r, y = rms_norm(z) · w."""
    return Call("norm", (), "add_rms_norm", (rows,), threads(k), (x, r, w, z, y, k, eps))


# ---- lowered


def _normed(low: Low, node: Tensor, w: Operand | None) -> None:
    x, y = in_rows(low, low.operand(node.sources[0])), low.result(node)
    eps, stride = node.attrs["eps"], row_stride(x)

    def make(at: At) -> list[Call]:
        n, heads, k = at.shape(node.type)
        weight = None if w is None else at(w)
        return [rms_norm(at(x), weight, at(y), n * heads, k, stride, k, eps)]

    low.launch(make, x, *([] if w is None else [w]), Out(y))


@ops.rms_norm.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _normed(low, node, None)


@ops.fused_rms_norm.lowering("cuda", x=(dtypes.F32,), w=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _normed(low, node, low.operand(node.sources[1]))
