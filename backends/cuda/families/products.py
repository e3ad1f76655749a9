"""MUL_MAT, lowered: by mat-vecs for a few tokens and on the tensor cores for many, for weights of every type."""

from collections.abc import Iterable, Sequence
from math import inf

from graphsched.backends.cuda.families import w2a8
from graphsched.backends.cuda.families.activations import (
    AS_FLOATS,
    INT8_BLOCKS,
    INT8_ROWS,
    Forms,
    always,
    int8_blocks,
    int8_rows,
    reads_x,
)
from graphsched.backends.cuda.families.copy import copy
from graphsched.backends.cuda.families.cublas import GEMM_FROM, halved, library, tokens_from
from graphsched.backends.cuda.families.dense import aligned, contiguous
from graphsched.backends.cuda.families.gemm import gemm, gemm_q8
from graphsched.backends.cuda.families.matmul import Matrices, matvec, matvec_floats
from graphsched.backends.cuda.launch import ternary_tiles
from graphsched.backends.cuda.launch.call import Call, Launched, up
from graphsched.backends.cuda.launch.lowering import At, Low
from graphsched.backends.cuda.launch.weights import BLOCKS, FLOATS, TERNARY, is_tiled, kind_of, row_bytes
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes


def _fits(node: Tensor) -> bool:
    """Weights, and of several matrices one for each head."""
    w, x = node.sources
    return w.kind in ("weight", "copy") and (len(w.shape) == 2 or w.shape[0] == x.shape[1])


# ---- blocks in planes × int8 blocks


def _in_planes(node: Tensor) -> bool:
    return _fits(node) and not is_tiled(node.sources[0].type)


def _reads_blocks(low: Low, node: Tensor) -> Forms:
    w = node.sources[0]
    whole = len(w.shape) == 2 and not node.attrs["rows"]
    least = tokens_from(low, node, kind_of(w.dtype)) if whole else inf
    return {INT8_BLOCKS: least} if least == inf else {INT8_BLOCKS: least, AS_FLOATS: inf}


@ops.mul_mat.lowering("cuda", when=_in_planes, w=BLOCKS, x=(dtypes.F32,))
@reads_x(_reads_blocks)
def _(low: Low, node: Tensor) -> None:
    w_tensor, tensor = node.sources
    q, ds = int8_blocks(low, tensor)
    if len(w_tensor.shape) == 3 or node.attrs["rows"]:
        _rows_or_several(low, node, q, ds)
        return
    kind, (rows, k), sms = kind_of(w_tensor.dtype), map(int, w_tensor.shape), low.sms
    w, y, large = low.operand(w_tensor), low.result(node), library(low, node, kind)

    def make(at: At) -> Iterable[Launched]:
        tokens = at.n(node.shape[0])
        if large and tokens >= large.least:
            return large.calls(at, w, y, tokens)
        if tokens >= GEMM_FROM:
            return [gemm_q8(kind, at(w), at(q), at(ds), at(y), tokens, rows, k)]
        return [matvec(kind, at(w), at(q), at(ds), at(y), tokens, rows, k, sms)]

    low.launch(make, w, q, ds, *(large.args if large else ()), Out(y))


def _rows_or_several(low: Low, node: Tensor, q: Operand, ds: Operand) -> None:
    """Rows of a matrix, or several matrices whose inputs stand side by side."""
    w, y = low.operand(node.sources[0]), low.result(node)
    kind, k, several, sms = kind_of(w.type.dtype), int(w.type.shape[-1]), len(w.type.shape) == 3, low.sms
    count, total = (w.type.shape[0] if several else 1), int(w.type.shape[-2])
    first, last = node.attrs["rows"] or (0, total)

    def make(at: At) -> list[Call]:
        tokens, n = at.n(node.shape[0]), last - first
        args = kind, at(w), at(q), at(ds), at(y), tokens, n, k
        if not several and tokens >= GEMM_FROM:
            return [gemm_q8(*args, total, first)]
        return [matvec(*args, sms, Matrices(total, first, count))]

    low.launch(make, w, q, ds, Out(y))


# ---- ternary matrices in tiles × int8 rows


@ops.mul_mat.lowering(
    "cuda", when=lambda node: _fits(node) and is_tiled(node.sources[0].type), w=TERNARY, x=(dtypes.F32,)
)
@reads_x(always(INT8_ROWS))
def _(low: Low, node: Tensor) -> None:
    rows = node.attrs["rows"]
    ternary(low, node.sources[1], [(low.operand(node.sources[0]), low.result(node))], rows)


def ternary(
    low: Low, x: Tensor, pairs: Sequence[tuple[Operand, Operand]], rows: tuple[int, int] | None = None
) -> None:
    """Launches products of x with ternary matrices, each with its result; `rows`: of a single one."""
    (q, ds), tokens, k, sms = int8_rows(low, x), x.shape[0], int(x.shape[-1]), low.sms

    def make(at: At) -> list[Call]:
        matrices = []
        for w, y in pairs:
            total = int(w.type.shape[0])
            scales = at(w) + ternary_tiles.scales_at(total, k)
            matrices.append(w2a8.rows_of(at(w), scales, at(y), rows or (0, total), k))
        return [w2a8.products(matrices, at(q), at(ds), at.n(tokens), k, sms)]

    low.launch(make, *(w for w, _ in pairs), q, ds, *(Out(y) for _, y in pairs))


# ---- floats


def _fits_floats(node: Tensor) -> bool:
    """Inputs of several matrices start at multiples of 16 bytes."""
    return _fits(node) and (len(node.sources[0].shape) == 2 or node.sources[0].shape[-1] % 4 == 0)


@ops.mul_mat.lowering("cuda", when=_fits_floats, w=FLOATS, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    w_tensor, tensor = node.sources
    if len(w_tensor.shape) == 3 or node.attrs["rows"]:
        _floats_rows_or_several(low, node)
        return
    kind, (rows, k), sms = kind_of(w_tensor.dtype), map(int, w_tensor.shape), low.sms
    w, x, y = low.operand(w_tensor), float_rows(low, tensor, k), low.result(node)
    stride = x.strides[0] // 4 if int(x.type.shape[0]) > 1 else k
    many = kind != "f32" and k % 8 == 0 and int(x.type.shape[0]) >= GEMM_FROM
    x16 = halved(low, tensor, kind) if many else None
    large = library(low, node, kind) if many else None

    def make(at: At) -> Iterable[Launched]:
        tokens = at.n(node.shape[0])
        if large and tokens >= large.least:
            return large.calls(at, w, y, tokens)
        if x16 is not None and tokens >= GEMM_FROM:
            return [gemm(kind, at(x16), at(w), at(y), tokens, rows, k, sms)]
        return [matvec_floats(kind, at(w), at(x), at(y), tokens, rows, k, stride, sms)]

    low.launch(make, w, x, *([] if x16 is None else [x16]), *(large.args if large else ()), Out(y))


def float_rows(low: Low, tensor: Tensor, k: int) -> Operand:
    """Activations in rows that start at multiples of 16 bytes, made once for all products that read them."""

    def pad() -> tuple[Operand, ...]:
        x = low.operand(tensor)
        return (_padded(low, contiguous(low, x)) if k % 4 else aligned(low, x),)

    return low.shared(("float rows", tensor), pad)[0]


def _floats_rows_or_several(low: Low, node: Tensor) -> None:
    """Rows of a matrix, or several matrices whose inputs stand side by side."""
    w, x, y = low.operand(node.sources[0]), low.operand(node.sources[1]), low.result(node)
    kind, k, several, sms = kind_of(w.type.dtype), int(w.type.shape[-1]), len(w.type.shape) == 3, low.sms
    x = contiguous(low, x) if several or k % 4 else aligned(low, x)
    if k % 4:  # rows of x start at multiples of 16 bytes
        x = _padded(low, x)
    stride = x.strides[0] // 4 if int(x.type.shape[0]) > 1 else k * (w.type.shape[0] if several else 1)
    count, (first, last) = (w.type.shape[0] if several else 1), node.attrs["rows"] or (0, w.type.shape[-2])
    x16 = None
    if not several and kind != "f32" and k % 8 == 0 and int(x.type.shape[0]) >= GEMM_FROM:
        x16 = halved(low, node.sources[1], kind)

    def make(at: At) -> list[Call]:
        tokens, n, start = at.n(node.shape[0]), last - first, at(w) + first * row_bytes(w.type)
        if x16 is not None and tokens >= GEMM_FROM:
            return [gemm(kind, at(x16), start, at(y), tokens, n, k, sms)]
        return [matvec_floats(kind, start, at(x), at(y), tokens, n, k, stride, sms, count)]

    low.launch(make, w, x, *([] if x16 is None else [x16]), Out(y))


def _padded(low: Low, x: Operand) -> Operand:
    """Rows of x at multiples of 4 floats."""
    n, k = int(x.type.shape[0]), int(x.type.shape[-1])
    pitch = up(k, 4) * 4
    wide = low.floats("padded rows", n, pitch)
    padded = Operand(wide.buffer, x.type, (4 * pitch, 4), 0)
    low.launch(
        lambda at: [
            copy(
                at(x),
                at(wide),
                ("f32", "f32"),
                (at.n(x.type.shape[0]), 1, 1, k),
                (k, 0, 0, 1),
                (pitch, 0, 0, 1),
            )
        ],
        x,
        Out(padded),
    )
    return padded
