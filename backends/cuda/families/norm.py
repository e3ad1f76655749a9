"""Launches of norm.cu; a norm writes what its readers read: floats, or the int8 that products take."""

from dataclasses import dataclass, replace

from graphsched.backends.cuda.families import w2a8
from graphsched.backends.cuda.families.activations import (
    AS_FLOATS,
    INT8_BLOCKS,
    INT8_ROWS,
    forms_read,
    new_int8_blocks,
    new_int8_rows,
)
from graphsched.backends.cuda.families.dense import contiguous, in_rows, row_stride, whole_rows
from graphsched.backends.cuda.families.quantize import rms_norm_q8
from graphsched.backends.cuda.launch.call import Address, Call, threads, up
from graphsched.backends.cuda.launch.fused import takes_whole
from graphsched.backends.cuda.launch.lowering import At, Low, strides
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes

Residual = tuple[Address, Address]


def rms_norm(
    x: Address,
    w: Address,
    y: Address,
    rows: int,
    k: int,
    x_stride: int,
    y_stride: int,
    eps: float,
    residual: Residual = (None, None),
) -> Call:
    """y = x / sqrt(mean(x²) + eps) · w; w may be None. residual (r, z): of z = x + r, dense rows."""
    args = (x, *residual, w, y, k, x_stride, y_stride, eps)
    return Call("norm", (), "rms_norm", (rows,), threads(up(k, 4)), args)


def l2_norm(x: Address, y: Address, shape: tuple[int, int, int], apart: tuple[int, int], eps: float) -> Call:
    """y = x / sqrt(Σ x² + eps) over rows of k, y dense; strides of x's tokens and heads; shape (tokens, heads, k)."""
    tokens, heads, k = shape
    args = (x, y, tokens * heads, heads, k, *apart, eps)
    return Call("norm", (), "l2_norm", (up(tokens * heads, 4),), 128, args)


def layer_norm(
    x: Address, w: Address, y: Address, shape: tuple[int, int, int], apart: tuple[int, int], eps: float
) -> Call:
    """y = (x - mean) / sqrt(variance + eps) · w over rows of k, y dense; w may be None; else as l2_norm."""
    tokens, heads, k = shape
    args = (x, w, y, heads, k, *apart, eps)
    return Call("norm", (), "layer_norm", (tokens * heads,), threads(up(k, 4)), args)


# ---- lowered


@dataclass(frozen=True)
class Norm:
    """What one launch reads, x or a sum of two, and writes: floats, int8 blocks, int8 rows, or several of these."""

    type: TensorType
    eps: float
    x: Operand
    w: Operand | None
    residual: tuple[Operand, Operand] | None = None  # what is added to x, and the sum
    floats: Operand | None = None
    blocks: tuple[Operand, ...] = ()
    rows: tuple[Operand, ...] = ()

    @property
    def args(self) -> tuple[Operand | Out, ...]:
        """What the launch reads and writes."""
        added, total = self.residual or (None, None)
        reads = (o for o in (self.x, added, self.w) if o is not None)
        writes = (o for o in (total, self.floats, *self.blocks, *self.rows) if o is not None)
        return (*reads, *map(Out, writes))

    def calls(self, at: At) -> list[Call]:
        """One, or two where blocks and rows are wanted."""
        tokens, heads, k = at.shape(self.type)
        n, stride, eps, x = tokens * heads, row_stride(self.x), self.eps, at(self.x)
        w, y = (None if o is None else at(o) for o in (self.w, self.floats))
        residual: Residual = (None, None)
        if self.residual is not None:
            residual = at(self.residual[0]), at(self.residual[1])
        calls = []
        if self.blocks:
            q, ds = map(at, self.blocks)
            calls.append(rms_norm_q8(x, w, y, q, ds, n, k, stride, eps, residual))
        elif not self.rows:
            calls.append(rms_norm(x, w, y, n, k, stride, k, eps, residual))
        if self.rows:
            q, ds = map(at, self.rows)
            if calls:  # which has written what this one would
                x, y, residual = at(self.residual[1]) if self.residual else x, None, (None, None)
            calls.append(w2a8.quantize(x, w, q, ds, n, k, stride, eps, y, residual))
        return calls


def _norm(low: Low, read: Tensor | None, y: Operand, norm: Norm) -> None:
    """Launches a norm that writes what is read of it. `read`: the tensor that its readers have as source."""
    wanted = forms_read(low, read) if low.fuses and read is not None and norm.w is not None else {}
    if read is not None and INT8_BLOCKS in wanted:
        norm = replace(norm, blocks=low.shared((INT8_BLOCKS, read), lambda: new_int8_blocks(low, read)))
    if read is not None and INT8_ROWS in wanted:
        norm = replace(norm, rows=low.shared((INT8_ROWS, read), lambda: new_int8_rows(low, read)))
    if AS_FLOATS in wanted or not wanted:
        norm = replace(norm, floats=y)
    low.launch(norm.calls, *norm.args)


@ops.rms_norm.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x = in_rows(low, low.operand(node.sources[0]))
    _norm(low, node, low.result(node), Norm(node.type, node.attrs["eps"], x, None))


@ops.fused_rms_norm.lowering("cuda", x=(dtypes.F32,), w=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, w = map(low.operand, node.sources)
    _norm(low, node, low.result(node), Norm(node.type, node.attrs["eps"], in_rows(low, x), w))


@ops.fused_add_rms_norm.lowering("cuda", when=takes_whole, x=(dtypes.F32,), y=(dtypes.F32,), w=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    *added, w = map(low.operand, node.sources)
    x, r = (contiguous(low, o) for o in added)
    total, y = low.results(node, in_place_of=node.sources[:2])
    norm = Norm(node.sources[0].type, node.attrs["eps"], x, w, (r, total))
    _norm(low, low.part_node(node, 1), y, norm)


@ops.l2_norm.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, y = whole_rows(low, low.operand(node.sources[0])), low.result(node)
    apart, eps = strides(x), node.attrs["eps"]
    low.launch(lambda at: [l2_norm(at(x), at(y), at.shape(node.type), apart, eps)], x, Out(y))


@ops.layer_norm.lowering("cuda", x=(dtypes.F32,))
@ops.fused_norm.lowering("cuda", x=(dtypes.F32,), w=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, *w = map(low.operand, node.sources)
    x, y = whole_rows(low, x), low.result(node)
    apart, eps = strides(x), node.attrs["eps"]

    def make(at: At) -> list[Call]:
        weight = at(w[0]) if w else None
        return [layer_norm(at(x), weight, at(y), at.shape(node.type), apart, eps)]

    low.launch(make, x, *w, Out(y))
