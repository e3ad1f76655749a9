"""Launches of norm.cu; a norm writes what is asked for: floats, or the int8 that the products behind it take."""

from dataclasses import dataclass

from graphsched.backends.cuda.call import Address, Call, threads, up
from graphsched.backends.cuda.families import w2a8
from graphsched.backends.cuda.families.quantize import rms_norm_q8
from graphsched.backends.cuda.lowering import At, Low, in_rows, row_stride
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
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


# ---- lowered


@dataclass(frozen=True)
class Added:
    """A sum of two dense tensors whose launch a norm of it may take over: z = x + r."""

    index: int  # of the launch
    x: Operand
    r: Operand
    z: Operand


@dataclass
class Normed:
    """A norm's launch, made anew whenever something more of it is wanted."""

    low: Low
    node: Tensor
    x: Operand
    w: Operand | None
    y: Operand
    added: Added | None
    index: int = -1
    floats: bool = False
    blocks: tuple[Operand, ...] = ()  # int8 blocks of 32, their scales
    tokens: tuple[Operand, ...] = ()  # int8 rows with one scale each, which w2a8.cu takes

    def launched(self) -> None:
        """Reads and writes as they are now."""
        reads = [self.added.x, self.added.r] if self.added else [self.x]
        reads += [] if self.w is None else [self.w]
        writes = [self.added.z] if self.added else []
        writes += [*([self.y] if self.floats else []), *self.blocks, *self.tokens]
        args: tuple[Operand | Out, ...] = (*reads, *map(Out, writes))
        self.index = self.low.relaunch(self.index, self._calls, *args)

    def as_floats(self) -> None:
        self.floats = True
        self.launched()

    def as_blocks(self) -> tuple[Operand, ...]:
        n = self.node.type.numel
        self.blocks = self.low.bytes("int8 blocks", n), self.low.floats("scales of blocks", n // 16)
        self.launched()
        return self.blocks

    def as_tokens(self) -> tuple[Operand, ...]:
        k, n = int(self.node.shape[-1]), self.node.type.numel
        rows = n // k
        self.tokens = (
            self.low.bytes("int8 rows", rows * w2a8.padded(k)),
            self.low.floats("row scales", rows, 2),
        )
        self.launched()
        return self.tokens

    def _calls(self, at: At) -> list[Call]:
        n, heads, k = at.shape(self.node.type)
        eps, w, a = self.node.attrs["eps"], None if self.w is None else at(self.w), self.added
        x, stride, y = (
            at(a.x if a else self.x),
            k if a else row_stride(self.x),
            at(self.y) if self.floats else None,
        )
        residual: Residual = (at(a.r), at(a.z)) if a else (None, None)
        calls = []
        if self.blocks:
            q, ds = map(at, self.blocks)
            calls.append(rms_norm_q8(x, w, y, q, ds, n * heads, k, stride, eps, residual))
        elif self.floats and not self.tokens:
            calls.append(rms_norm(x, w, y, n * heads, k, stride, k, eps, residual))
        if self.tokens:
            q, ds = map(at, self.tokens)
            if calls:  # the first has written what this one would
                x, stride, y, residual = at(a.z) if a else x, stride, None, (None, None)
            calls.append(w2a8.quantize(x, w, q, ds, n * heads, k, stride, eps, y, residual))
        return calls


def _normed(low: Low, node: Tensor, w: Operand | None) -> None:
    resident = w is None or w.buffer.memory is not None  # an uploaded weight may not be there yet
    added = low.sums.pop(node.sources[0], None) if low.fuses and resident else None
    x = in_rows(low, low.operand(node.sources[0]))
    made = Normed(low, node, x, w, low.result(node), added, added.index if added else -1)
    if not low.fuses or w is None:
        made.as_floats()
        return
    made.launched()
    low.norms[node] = made
    low.when_read(node, made.as_floats)


@ops.rms_norm.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _normed(low, node, None)


@ops.fused_rms_norm.lowering("cuda", x=(dtypes.F32,), w=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _normed(low, node, low.operand(node.sources[1]))
