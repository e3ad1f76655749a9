"""Elementwise kernels: rows of the last dimension, 16 lanes at a time."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import Kernel, helper, kernel
from graphsched.backends.cpu.language.mathfn import KINDS, gated, sigmoid, tanh
from graphsched.backends.cpu.language.simd import (
    add,
    div,
    get,
    load,
    load_first,
    maximum,
    minimum,
    mul,
    put,
    splat,
    store,
    store_first,
    sum_lanes,
)
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.movement import contiguous
from graphsched.backends.cpu.program.kernel_args import arg, real_arg, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_address, rows_of
from graphsched.graph import ops
from graphsched.graph.opdef import OpDef
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out

ADD, MUL, DIV = range(3)
SCALE, SQR, CLAMP, SOFTCAP, UNARY0 = range(5)  # UNARY0 + i is the i-th function of mathfn.KINDS


@helper
def combine(what: int, a: Any, b: Any) -> Any:
    if what == ADD:
        return add(a, b)
    if what == MUL:
        return mul(a, b)
    return div(a, b)


@kernel
def binary_f32(what: int, scalar: int) -> Callable[..., None]:
    """Rows a ∘ b; with `scalar` b has one element per row."""

    def binary(step: int, run: int, ith: int, nth: int) -> None:
        a, b, y, n = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        heads, a_token, a_head = arg(step, 4), arg(step, 5), arg(step, 6)
        b_token, b_head = arg(step, 7), arg(step, 8)
        first, last = share(rows(step, run), ith, nth)
        full = n // 16 * 16
        for r in range(first, last):
            t, h = r // heads, r % heads
            pa, pb, py = a + t * a_token + h * a_head, b + t * b_token + h * b_head, y + r * n * 4
            one = splat(get(pb, F32), 16)
            for i in range(0, full, 16):
                vb = one if scalar else load(pb + 4 * i, F32, 16)
                store(py + 4 * i, combine(what, load(pa + 4 * i, F32, 16), vb), F32)
            if full < n:
                vb = one if scalar else load_first(pb + 4 * full, F32, 16, n - full)
                va = load_first(pa + 4 * full, F32, 16, n - full)
                store_first(py + 4 * full, combine(what, va, vb), F32, n - full)

    return binary


def _strides_as(b: Operand, heads: int) -> tuple[int, int]:
    """(token, head) strides of b broadcast to [T, heads, n]: 0 where b has one row or lacks the dimension."""
    shape, strides = list(b.type.shape), list(b.strides)
    while len(shape) < 3:
        position = 1 if len(shape) == 2 and heads == 1 else 0
        shape.insert(position, 1)
        strides.insert(position, 0)
    return (strides[0] if shape[0] != 1 else 0), (strides[1] if shape[1] != 1 else 0)


def _is_simple(node: Tensor) -> bool:
    return len(node.shape) in (2, 3)


def _lower_binary(definition: OpDef[Any], what: int) -> None:
    @definition.lowering("cpu", when=_is_simple)
    def _(low: Low, node: Tensor) -> None:
        a, b = map(low.operand, node.sources)
        y = Out(low.result(node, in_place_of=node.sources))
        heads, token, head = row_address(a)
        scalar = int(b.type.shape[-1] == 1 and node.shape[-1] != 1)
        args = (a, b, y, node.shape[-1], heads, token, head, *_strides_as(b, heads))
        low.step(binary_f32(what, scalar), *args, over=node.type)


for _definition, _what in ((ops.add, ADD), (ops.mul, MUL), (ops.div, DIV)):
    _lower_binary(_definition, _what)


@helper
def apply(what: int, x: Any, p: float, q: float) -> Any:
    if what == SCALE:
        return mul(x, splat(p, 16))
    if what == SQR:
        return mul(x, x)
    if what == CLAMP:
        return minimum(maximum(x, splat(p, 16)), splat(q, 16))
    if what == SOFTCAP:
        return mul(splat(p, 16), tanh(mul(x, splat(q, 16))))
    return gated(what - UNARY0, x)


@helper
def map_row(what: int, x: int, y: int, n: int, p: float, q: float) -> None:
    full = n // 16 * 16
    for i in range(0, full, 16):
        store(y + 4 * i, apply(what, load(x + 4 * i, F32, 16), p, q), F32)
    if full < n:
        store_first(
            y + 4 * full, apply(what, load_first(x + 4 * full, F32, 16, n - full), p, q), F32, n - full
        )


@kernel
def map_f32(what: int) -> Callable[..., None]:
    def map_rows(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n = arg(step, 0), arg(step, 1), arg(step, 2)
        heads, token_stride, head_stride = arg(step, 3), arg(step, 4), arg(step, 5)
        p, q = real_arg(step, 6), real_arg(step, 7)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            px = x + r // heads * token_stride + r % heads * head_stride
            map_row(what, px, y + r * n * 4, n, p, q)

    return map_rows


def _map(low: Low, node: Tensor, what: int, p: float = 0.0, q: float = 0.0) -> None:
    x = low.operand(node.sources[0])
    y = Out(low.result(node, in_place_of=node.sources))
    low.step(map_f32(what), x, y, node.shape[-1], *row_address(x), float(p), float(q), over=node.type)


@ops.scale.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    _map(low, node, SCALE, node.attrs["by"])


@ops.sqr.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    _map(low, node, SQR)


@ops.clamp.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    _map(low, node, CLAMP, node.attrs["low"], node.attrs["high"])


@ops.softcap.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    _map(low, node, SOFTCAP, node.attrs["cap"], 1.0 / node.attrs["cap"])


@ops.unary.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    _map(low, node, UNARY0 + KINDS[node.attrs["kind"]])


GATE_UNIT = 256  # elements of a row per unit, so that one token's row is shared by all threads
SWIGLU_OAI = len(KINDS)


@helper
def joined(kind: int, a: Any, b: Any, alpha: float, limit: float) -> Any:
    """kind(a) · b, or the clamped SwiGLU of gpt-oss."""
    if kind != SWIGLU_OAI:
        return mul(gated(kind, a), b)
    g, bound = minimum(a, splat(limit, 16)), splat(limit, 16)
    u = minimum(maximum(b, splat(-limit, 16)), bound)
    return mul(mul(g, sigmoid(mul(splat(alpha, 16), g))), add(u, splat(1.0, 16)))


@kernel
def mul_unary_f32(kind: int) -> Callable[..., None]:
    def mul_unary(step: int, run: int, ith: int, nth: int) -> None:
        a, b, y, n = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        heads, a_token, a_head = arg(step, 4), arg(step, 5), arg(step, 6)
        b_token, b_head = arg(step, 7), arg(step, 8)
        alpha, limit = real_arg(step, 9), real_arg(step, 10)
        per_row = (n + GATE_UNIT - 1) // GATE_UNIT
        first, last = share(rows(step, run) * per_row, ith, nth)
        for unit in range(first, last):
            r, start = unit // per_row, unit % per_row * GATE_UNIT
            t, h = r // heads, r % heads
            pa, pb, py = a + t * a_token + h * a_head, b + t * b_token + h * b_head, y + 4 * r * n
            end = start + GATE_UNIT if start + GATE_UNIT < n else n
            full = start + (end - start) // 16 * 16
            for i in range(start, full, 16):
                v = joined(kind, load(pa + 4 * i, F32, 16), load(pb + 4 * i, F32, 16), alpha, limit)
                store(py + 4 * i, v, F32)
            if full < end:
                left = end - full
                va, vb = load_first(pa + 4 * full, F32, 16, left), load_first(pb + 4 * full, F32, 16, left)
                store_first(py + 4 * full, joined(kind, va, vb, alpha, limit), F32, left)

    return mul_unary


def gate_up(
    low: Low, kernel: Kernel, a: Operand, b: Operand, y: Operand, alpha: float = 0.0, limit: float = 0.0
) -> None:
    args = (a, b, Out(y), y.type.shape[-1], *row_address(a), *row_address(b)[1:], alpha, limit)
    low.step(kernel, *args, rows=rows_of(y.type))


@ops.fused_mul_unary.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    a, b = map(low.operand, node.sources)
    gate_up(low, mul_unary_f32(KINDS[node.attrs["kind"]]), a, b, low.result(node, in_place_of=node.sources))


@ops.swiglu_oai.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    a, b = map(low.operand, node.sources)
    y = low.result(node, in_place_of=node.sources)
    gate_up(low, mul_unary_f32(SWIGLU_OAI), a, b, y, float(node.attrs["alpha"]), float(node.attrs["limit"]))


@helper
def row_sum(x: int, n: int) -> float:
    full = n // 16 * 16
    acc = splat(0.0, 16)
    for i in range(0, full, 16):
        acc = add(acc, load(x + 4 * i, F32, 16))
    if full < n:
        acc = add(acc, load_first(x + 4 * full, F32, 16, n - full))
    return sum_lanes(acc)


@kernel
def sum_rows_f32() -> Callable[..., None]:
    def sum_rows(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n = arg(step, 0), arg(step, 1), arg(step, 2)
        heads, token_stride, head_stride = arg(step, 3), arg(step, 4), arg(step, 5)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            put(y + 4 * r, row_sum(x + r // heads * token_stride + r % heads * head_stride, n), F32)

    return sum_rows


@ops.sum_rows.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    y = Out(low.result(node))
    low.step(sum_rows_f32(), x, y, x.type.shape[-1], *row_address(x), over=node.type)


@kernel
def multi_add_f32() -> Callable[..., None]:
    def multi_add(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, used = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        first, last = share(rows(step, run), ith, nth)
        full = n // 16 * 16
        for r in range(first, last):
            px, py = x + r * used * n * 4, y + r * n * 4
            for i in range(0, full, 16):
                acc = load(px + 4 * i, F32, 16)
                for u in range(1, used):
                    acc = add(acc, load(px + 4 * (u * n + i), F32, 16))
                store(py + 4 * i, acc, F32)
            if full < n:
                acc = load_first(px + 4 * full, F32, 16, n - full)
                for u in range(1, used):
                    acc = add(acc, load_first(px + 4 * (u * n + full), F32, 16, n - full))
                store_first(py + 4 * full, acc, F32, n - full)

    return multi_add


@ops.multi_add.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    x = contiguous(low, low.operand(node.sources[0]))
    low.step(multi_add_f32(), x, Out(low.result(node)), node.shape[-1], x.type.shape[1], over=node.type)
