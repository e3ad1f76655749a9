"""Dense copies of operands, and of those whose rows kernels cannot read as they lie."""

from dataclasses import replace

from graphsched.backends.cuda.families import copy
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.lowering import At, Low, strides, three
from graphsched.backends.cuda.launch.weights import FLOATS, row_bytes
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out


def copied(low: Low, x: Operand, y: Operand, shared: bool = False) -> Operand:
    """Launches the copy of x, of any strides, into y as float32; `shared`: x's one head stands for all of y's."""
    kind, (y0, y1) = FLOATS[x.type.dtype], strides(y)
    x0, x1 = strides(x, x.type.dtype.nbytes)
    step = x.strides[-1] // x.type.dtype.nbytes
    heads = three(y.type)[1]

    def make(at: At) -> list[Call]:
        n, _, k = at.shape(x.type)
        shape, xs, ys = (n, 1, heads, k), (x0, 0, 0 if shared else x1, step), (y0, 0, y1, 1)
        return [copy.copy(at(x), at(y), (kind, "f32"), shape, xs, ys)]

    low.launch(make, x, Out(y))
    return y


def contiguous(low: Low, x: Operand) -> Operand:
    """x, or a dense copy of it."""
    return x if x.is_contiguous else copied(low, x, low.scratch("contiguous", x.type))


def whole_rows(low: Low, x: Operand) -> Operand:
    """x, or a dense copy where the elements of a row are not next to each other."""
    return x if x.has_whole_rows else contiguous(low, x)


def as_it_lies(low: Low, source: Tensor) -> Operand:
    """The operand of a source with the strides that it has here: rows of weights are padded."""
    x = low.operand(source)
    if len(x.strides) < 2 or not (source.kind == "weight" or x.buffer.staging):
        return x
    row, between = row_bytes(x.type), [x.type.dtype.nbytes]
    for n in (1, *reversed(x.type.shape[1:-1])):
        row *= int(n)
        between.append(row)
    return replace(x, strides=tuple(reversed(between)))


def in_rows(low: Low, x: Operand) -> Operand:
    """x, or a dense copy where its rows [tokens · heads] are not one stride apart."""
    token, head = strides(x)
    even = not head or not token or token == head * int(x.type.shape[1])
    return x if even else contiguous(low, x)


def row_stride(x: Operand) -> int:
    """Floats from row to row of what in_rows() gives."""
    token, head = strides(x)
    return head or token or int(x.type.shape[-1])


def aligned(low: Low, x: Operand) -> Operand:
    """Rows that start at multiples of 16 bytes, one stride apart."""
    x = in_rows(low, x)
    return x if x.offset % 16 == 0 and row_stride(x) % 4 == 0 else contiguous(low, x)
