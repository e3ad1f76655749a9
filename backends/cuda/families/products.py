"""MUL_MAT, lowered: by mat-vecs for a few tokens and on the tensor cores for many, for weights of every type."""

from collections.abc import Sequence
from math import inf

from graphsched.backends.cuda.call import Call, Launched, up
from graphsched.backends.cuda.families import w2a8
from graphsched.backends.cuda.families.copy import copy
from graphsched.backends.cuda.families.cublas import GEMM_FROM, halved, library
from graphsched.backends.cuda.families.gemm import gemm, gemm_q8
from graphsched.backends.cuda.families.joined import Part, joined
from graphsched.backends.cuda.families.matmul import (
    Matrices,
    matvec,
    matvec_floats,
    matvec_joined,
    matvec_joined_floats,
    quantised,
    up_gate_floats,
)
from graphsched.backends.cuda.families.moe import up_gate
from graphsched.backends.cuda.lowering import At, Low, aligned, contiguous, row_stride, same_rows
from graphsched.backends.cuda.weights import BLOCKS, FLOATS, TERNARY, is_tiled, kind_of, row_bytes
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


@ops.mul_mat.lowering("cuda", when=_in_planes, w=BLOCKS, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    w, tensor = node.sources
    if len(w.shape) == 3 or node.attrs["rows"]:
        _in_part(low, node, *quantised(low, tensor))
        return
    kind, k, sms = kind_of(w.dtype), int(w.shape[-1]), low.sms
    large = library(low, node, kind)
    q, ds = quantised(low, tensor, large.least if large and int(w.shape[0]) % 4 == 0 else inf)

    def calls(at: At, parts: Sequence[Part]) -> Sequence[Launched]:
        tokens = at.n(node.shape[0])
        if large and large.takes(tokens, parts):
            return large.calls(at, parts, tokens)
        if tokens == 1 and len(parts) > 1:
            return [matvec_joined(kind, [(at(p.w), at(p.y), p.rows) for p in parts], at(q), at(ds), k, sms)]
        if tokens >= GEMM_FROM:
            return [gemm_q8(kind, at(p.w), at(q), at(ds), at(p.y), tokens, p.rows, k) for p in parts]
        return [matvec(kind, at(p.w), at(q), at(ds), at(p.y), tokens, p.rows, k, sms) for p in parts]

    def gated(at: At, gate: Part, up: Part, y: Operand, how: str) -> Call:
        shape = at.n(node.shape[0]), 1, 1
        given = at(up.w), at(gate.w), None, at(q), at(ds), at(y)
        return up_gate(kind, *given, shape, gate.rows, k, how, sms)

    joined(low, node, (q.buffer, kind), (q, ds, *(large.args if large else ())), calls, gated)


def _in_part(low: Low, node: Tensor, q: Operand, ds: Operand) -> None:
    """Rows of a matrix, or several matrices whose inputs stand side by side."""
    w, y = low.operand(node.sources[0]), low.result(node)
    kind, k, several, sms = kind_of(w.type.dtype), int(w.type.shape[-1]), len(w.type.shape) == 3, low.sms
    count, total = (w.type.shape[0] if several else 1), int(w.type.shape[-2])
    first, last = node.attrs["rows"] or (0, total)

    def make(at: At) -> list[Call]:
        tokens, n = at.n(node.shape[0]), last - first
        given = kind, at(w), at(q), at(ds), at(y), tokens, n, k
        if not several and tokens >= GEMM_FROM:
            return [gemm_q8(*given, total, first)]
        return [matvec(*given, sms, Matrices(total, first, count))]

    low.launch(make, w, q, ds, Out(y))


# ---- ternary matrices in tiles × int8 rows


def _in_rows(low: Low, tensor: Tensor) -> tuple[Operand, Operand]:
    """int8 rows of activations with a scale each, made once for all products that read them: by their norm, if any."""
    tensor = same_rows(tensor)

    def made() -> tuple[Operand, ...]:
        if norm := low.norms.get(tensor):
            return norm.as_tokens()
        x, k = aligned(low, low.operand(tensor)), int(tensor.shape[-1])
        rows, stride = tensor.type.numel // k, row_stride(x)
        q, ds = low.bytes("int8 rows", rows * w2a8.padded(k)), low.floats("scales of rows", rows, 2)

        def make(at: At) -> list[Call]:
            tokens, heads, _ = at.shape(x.type)
            return [w2a8.quantize(at(x), None, at(q), at(ds), tokens * heads, k, stride)]

        low.launch(make, x, Out(q), Out(ds))
        return q, ds

    q, ds = low.shared(("int8 rows", tensor), made)
    return q, ds


@ops.mul_mat.lowering(
    "cuda", when=lambda node: _fits(node) and is_tiled(node.sources[0].type), w=TERNARY, x=(dtypes.F32,)
)
def _(low: Low, node: Tensor) -> None:
    (q, ds), k, sms = _in_rows(low, node.sources[1]), int(node.sources[0].shape[1]), low.sms
    rows = node.attrs["rows"]

    def calls(at: At, parts: Sequence[Part]) -> list[Call]:
        matrices = [
            w2a8.part_of(at(p.w), at(p.w) + w2a8.scales_at(p.rows, k), at(p.y), rows or (0, p.rows), k)
            for p in parts
        ]
        return [w2a8.products(matrices, at(q), at(ds), at.n(node.shape[0]), k, sms)]

    joined(low, node, (q.buffer, node) if rows else q.buffer, (q, ds), calls)


# ---- floats


def _fits_floats(node: Tensor) -> bool:
    """Inputs of several matrices start at multiples of 16 bytes."""
    return _fits(node) and (len(node.sources[0].shape) == 2 or node.sources[0].shape[-1] % 4 == 0)


@ops.mul_mat.lowering("cuda", when=_fits_floats, w=FLOATS, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    w, tensor = node.sources
    kind, k, sms = kind_of(w.dtype), int(w.shape[-1]), low.sms
    if len(w.shape) == 3 or node.attrs["rows"]:
        _floats_in_part(low, node)
        return
    x = _float_rows(low, tensor, k)
    stride = x.strides[0] // 4 if int(x.type.shape[0]) > 1 else k
    many = kind != "f32" and k % 8 == 0 and int(x.type.shape[0]) >= GEMM_FROM
    x16 = halved(low, tensor, kind) if many else None
    large = library(low, node, kind) if many else None

    def calls(at: At, parts: Sequence[Part]) -> Sequence[Launched]:
        tokens = at.n(node.shape[0])
        if large and large.takes(tokens, parts):
            return large.calls(at, parts, tokens)
        if tokens == 1 and len(parts) > 1:
            return [matvec_joined_floats(kind, [(at(p.w), at(p.y), p.rows) for p in parts], at(x), k, sms)]
        if x16 is not None and tokens >= GEMM_FROM:
            return [gemm(kind, at(x16), at(p.w), at(p.y), tokens, p.rows, k, sms) for p in parts]
        return [matvec_floats(kind, at(p.w), at(x), at(p.y), tokens, p.rows, k, stride, sms) for p in parts]

    def gated(at: At, gate: Part, up: Part, y: Operand, how: str) -> Call:
        return up_gate_floats(kind, at(up.w), at(gate.w), at(x), at(y), gate.rows, k, how, sms)

    inputs = (x, *([] if x16 is None else [x16]), *(large.args if large else ()))
    joined(low, node, (x.buffer, x.offset, x.strides, kind), inputs, calls, gated)


def _float_rows(low: Low, tensor: Tensor, k: int) -> Operand:
    """Activations in rows that start at multiples of 16 bytes, made once for all products that read them."""

    def made() -> tuple[Operand, ...]:
        x = low.operand(tensor)
        return (_padded(low, contiguous(low, x)) if k % 4 else aligned(low, x),)

    return low.shared(("float rows", tensor), made)[0]


def _floats_in_part(low: Low, node: Tensor) -> None:
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
    part = Operand(wide.buffer, x.type, (4 * pitch, 4), 0)
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
        Out(part),
    )
    return part
