"""Matrix products: mat-vec for one token, GEMM for more, by expert."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from graphsched.backends.cpu.formats.forms import FORMS
from graphsched.backends.cpu.formats.int8 import q8_block
from graphsched.backends.cpu.formats.interleaved import ROW_FORMS
from graphsched.backends.cpu.formats.interleaved_lanes import store_rows
from graphsched.backends.cpu.formats.rows import FLOAT_TYPES, PRODUCT_TYPES
from graphsched.backends.cpu.language.jit import by_literal, helper, kernel
from graphsched.backends.cpu.language.mathfn import KINDS, gated_product
from graphsched.backends.cpu.language.simd import (
    add,
    get,
    load_first,
    put,
    store,
    store_first,
    sum_lanes,
)
from graphsched.backends.cpu.language.vector import F32, I8, I32
from graphsched.backends.cpu.matmul.activations_rows import quantized_rows
from graphsched.backends.cpu.matmul.activations_tiles import packed, weight_panels
from graphsched.backends.cpu.matmul.experts import by_experts, suits, up_gate_by_experts
from graphsched.backends.cpu.matmul.gates import gate_up, mul_unary_f32
from graphsched.backends.cpu.matmul.gemm import gemm_blocks, gemm_float
from graphsched.backends.cpu.matmul.matvec import activation_words, dot_row
from graphsched.backends.cpu.matmul.matvec_interleaved import dot_rows
from graphsched.backends.cpu.matmul.panel import panel_bytes
from graphsched.backends.cpu.program.kernel_args import arguments, deal, row_at, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.opdef import Op
from graphsched.graph.tensor import Tensor, TensorType, f32, i32
from graphsched.run.operand import Operand
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

LEAST_BYTES = 4096  # of a matrix per claim of a thread: a quarter of a microsecond


@kernel("x -> q d isum | k heads x_token x_head")
def quantize_q8() -> Callable[..., None]:
    """Activations to int8 per block of 32: q[t, k], scale d[t, k / 32] = max / 127, and sums of q.

    isum[t] holds the sums of the k / 32 blocks, then those of the k / 16 halves.
    """

    def quantize(step: int, run: int, ith: int, nth: int) -> None:
        x, q, d, isum, k, heads, x_token, x_head = arguments(step)
        blocks = k // 32
        first, last = share(rows(step, run) * blocks, ith, nth)
        for unit in range(first, last):
            r, b = unit // blocks, unit % blocks
            src = row_at(x, r, heads, x_token, x_head) + 128 * b
            scale, low, high = q8_block(src)
            put(d + 4 * unit, scale, F32)
            sums, first_sum, last_sum = isum + 12 * r * blocks, sum_lanes(low), sum_lanes(high)
            put(sums + 4 * b, first_sum + last_sum, I32)
            put(sums + 4 * blocks + 8 * b, first_sum, I32)
            put(sums + 4 * blocks + 8 * b + 4, last_sum, I32)
            store(q + 32 * unit, low, I8)
            store(q + 32 * unit + 16, high, I8)

    return quantize


def put_dots(kind: int, out: int, w: int, x: int, d: int, isum: int, k: int) -> None:
    """One row's product with x, or those of one group of interleaved rows. For kernels."""


@by_literal(put_dots)
def _(t: int) -> Callable[..., None]:
    def one(kind: int, out: int, w: int, x: int, d: int, isum: int, k: int) -> None:
        put(out, dot_row(t, w, x, d, isum, k), F32)

    def group(kind: int, out: int, w: int, x: int, d: int, isum: int, k: int) -> None:
        store_rows(t, out, dot_rows(t, w, x, d, isum, k))

    return group if t in ROW_FORMS else one


@helper
def activate_rows(activation: int, gate: int, up: int, n: int) -> None:
    """gate[i] = f(gate[i]) · up[i], f: the activation by its number in mathfn.KINDS."""
    for i in range(0, n, 16):
        a, b = load_first(gate + 4 * i, F32, 16, n - i), load_first(up + 4 * i, F32, 16, n - i)
        store_first(
            gate + 4 * i, gated_product(activation, a, b, np.float32(0.0), np.float32(0.0)), F32, n - i
        )


@kernel(
    "w up? x d? isum? ids? -> y second? | n k row_bytes matrices matrix_bytes per_x heads x_token x_head least"
)
def mat_vec(kind: int, activation: int) -> Callable[..., None]:
    """y[p, n] = w[p mod heads or expert of p, n] · x[p]; threads are dealt rows of all pairs p.

    With `activation` >= 0 w is gate, and y = f(y) · (up · x).
    """
    at_once = ROW_FORMS[kind].rows if kind in ROW_FORMS else 1

    def product(step: int, run: int, ith: int, nth: int) -> None:
        a = arguments(step)
        (n_scales, n_sums), units = activation_words(kind, a.k), rows(step, run) * (a.n // at_once)
        unit, last = deal(step, ith, nth, units, a.least)
        while unit < last:
            p, begin = at_once * unit // a.n, at_once * unit % a.n
            end = min(at_once * last - a.n * p, a.n)
            unit = (a.n * p + end) // at_once
            e = get(a.ids + 4 * p, I32) if a.ids else p % a.matrices
            out = a.y + 4 * a.n * p
            if 0 <= e < a.matrices:
                px = p // a.per_x
                src = row_at(a.x, px, a.heads, a.x_token, a.x_head)
                scales, sums = a.d + 4 * n_scales * px, a.isum + 4 * n_sums * px
                for r in range(begin, end, at_once):
                    at = e * a.matrix_bytes + r * a.row_bytes
                    put_dots(kind, out + 4 * r, a.w + at, src, scales, sums, a.k)
                    if activation >= 0:
                        put_dots(kind, a.second + 4 * (a.n * p + r), a.up + at, src, scales, sums, a.k)
                if activation >= 0:
                    activate_rows(activation, out + 4 * begin, a.second + 4 * (a.n * p + begin), end - begin)
            else:  # ids outside the range mean skip
                for r in range(begin, end):
                    put(out + 4 * r, 0.0, F32)
            if unit == last:
                unit, last = deal(step, ith, nth, units, a.least)

    return product


def activations(low: Low, x: Tensor, w: DType) -> dict[str, Any]:
    """x as products of one token with w read it: floats, or codes with their scales d and the sums isum."""
    operand = low.operand(x)
    if w in FLOAT_TYPES:
        return {"x": operand, "d": None, "isum": None}
    if FORMS[w.id].ternary:
        operands = quantized_rows(low, x, FORMS[w.id])
    else:
        operands = low.shared(("q8", x), lambda: _quantized(low, x, operand))
    return dict(zip(("x", "d", "isum"), operands, strict=True))


def _quantized(low: Low, x: Tensor, operand: Operand) -> tuple[Operand, ...]:
    *outer, k = x.shape
    q = low.scratch("q8", TensorType(dtypes.I8, (*outer, k)))
    d, isum = (
        low.scratch("q8 scales", f32(*outer, k // 32)),
        low.scratch("q8 sums", i32(*outer, 3 * (k // 32))),
    )
    sizes = {"k": k, **row_strides(x=operand)}
    low.step(quantize_q8(), x=operand, q=q, d=d, isum=isum, **sizes, rows=rows_of(x.type))
    return q, d, isum


def _is_native(node: Tensor) -> bool:
    return node.sources[0].shape[-1] % 32 == 0 or node.sources[0].dtype in FLOAT_TYPES


def _is_dense(node: Tensor) -> bool:
    """Rows one after the other, and a matrix for each head (others: attention/unfused.py)."""
    w, x = node.sources
    permuted = w.opdef is not None and w.opdef.op is Op.PERMUTE
    return _is_native(node) and not permuted and (len(w.shape) == 2 or w.shape[0] == x.shape[1])


@ops.mul_mat.lowering("cpu", when=_is_dense, strided=("x",), w=PRODUCT_TYPES)
def _(low: Low, node: Tensor) -> None:
    w, x = node.sources
    matrix = _rows(low.operand(w), node.attrs["rows"])
    if int(x.shape[0]) == 1:
        _mat_vec(low, matrix, x, low.result(node))
    elif w.dtype in FLOAT_TYPES:
        _gemm_float(low, matrix, node)
    else:
        _gemm_blocks(low, matrix, node)


def _rows(w: Operand, rows: tuple[int, int] | None) -> Operand:
    """The rows [first, last) of a matrix; without `rows` all of it."""
    if rows is None:
        return w
    type = TensorType(w.type.dtype, (rows[1] - rows[0], w.type.shape[1]))
    return replace(w, type=type, offset=w.offset + rows[0] * w.strides[0])


def _mat_vec(
    low: Low,
    matrix: Operand,
    x: Tensor,
    y: Operand,
    ids: Tensor | None = None,
    up: Operand | None = None,
    activation: int = -1,
) -> None:
    w = matrix.type
    values = activations(low, x, w.dtype)
    *_, n, k = w.shape
    row_bytes = w.dtype.row_bytes(k)
    assert values["x"] is not None
    low.step(
        mat_vec(w.dtype.id, activation),
        w=matrix,
        up=up,
        **values,
        ids=low.operand(ids) if ids else None,
        y=y,
        second=low.scratch("up", y.type) if up else None,
        n=n,
        k=k,
        row_bytes=row_bytes,
        matrices=w.shape[0] if len(w.shape) == 3 else 1,
        matrix_bytes=n * row_bytes,
        per_x=ids.shape[1] // x.shape[1] if ids else 1,
        **row_strides(x=values["x"]),
        least=-(-LEAST_BYTES // row_bytes),  # rows per claim: more claims would cost more than they balance
        rows=rows_of(y.type),
    )


def _gemm_float(low: Low, w: Operand, node: Tensor) -> None:
    x = low.operand(node.sources[1])
    n, k = w.type.shape[-2:]
    low.step(
        gemm_float(w.type.dtype.id),
        w=w,
        x=x,
        y=low.result(node),
        n=n,
        k=k,
        w_row=w.strides[-2],
        **row_strides(x=x),
        rows=rows_of(node.type, inner=len(node.shape) - 1),
    )


def _gemm_blocks(low: Low, w: Operand, node: Tensor) -> None:
    n, k = w.type.shape[-2:]
    x, kind = node.sources[1], w.type.dtype.id
    heads, size = int(x.shape[1]) if len(x.shape) == 3 else 1, panel_bytes(kind, k)
    q, d, shift = packed(low, x, w.type.dtype)
    low.step(
        gemm_blocks(kind),
        w=w,
        q=q,
        d=d,
        shift=shift,
        y=low.result(node),
        panels=weight_panels(low, size),
        n=n,
        k=k,
        w_row=w.strides[-2],
        per_thread=size,
        heads=heads,
        rows=rows_of(node.type, inner=len(node.shape) - 1),
    )


@ops.mul_mat_id.lowering("cpu", when=_is_native, strided=("x",), w=PRODUCT_TYPES)
def _(low: Low, node: Tensor) -> None:
    w, x, ids = node.sources
    _by_id(low, w, x, low.result(node), ids)


def _by_id(low: Low, w: Tensor, x: Tensor, y: Operand, ids: Tensor) -> None:
    product = by_experts if suits(w, ids) else _mat_vec
    product(low, low.operand(w), x, y, ids)


@ops.moe_fused_up_gate.lowering("cpu", when=_is_native, strided=("x",), up=PRODUCT_TYPES)
def _(low: Low, node: Tensor) -> None:
    up, gate, x, ids = node.sources
    activation, y = KINDS[node.attrs["kind"]], low.result(node)
    if not suits(up, ids):
        _mat_vec(low, low.operand(gate), x, y, ids, up=low.operand(up), activation=activation)
    elif up.dtype not in FLOAT_TYPES:
        up_gate_by_experts(low, low.operand(up), low.operand(gate), x, y, ids, activation)
    else:
        a, b = (low.scratch(name, node.type) for name in ("gate", "up"))
        for w, y_w in ((gate, a), (up, b)):
            by_experts(low, low.operand(w), x, y_w, ids)
        gate_up(low, mul_unary_f32(activation), a, b, y)


@kernel("x b ids -> y | n n_expert heads x_token x_head")
def add_id_f32() -> Callable[..., None]:
    """y[p] = x[p] + b[ids[p]], or x[p] for ids outside the range."""

    def add_id(step: int, run: int, ith: int, nth: int) -> None:
        x, b, ids, y, n, n_expert, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for p in range(first, last):
            e, px, py = get(ids + 4 * p, I32), row_at(x, p, heads, x_token, x_head), y + 4 * n * p
            inside = 0 <= e < n_expert
            for i in range(0, n, 16):
                v = load_first(px + 4 * i, F32, 16, min(n - i, 16))
                if inside:
                    v = add(v, load_first(b + 4 * (e * n + i), F32, 16, min(n - i, 16)))
                store_first(py + 4 * i, v, F32, min(n - i, 16))

    return add_id


@ops.add_id.lowering("cpu", strided=("x",), x=(dtypes.F32,), b=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, b, ids = map(low.operand, node.sources)
    y = low.result(node, in_place_of=node.sources[:1])
    sizes = {"n": node.shape[-1], "n_expert": b.type.shape[0], **row_strides(x=x)}
    low.step(add_id_f32(), x=x, b=b, ids=ids, y=y, **sizes, rows=rows_of(node.type))
