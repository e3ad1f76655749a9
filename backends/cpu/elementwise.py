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
from graphsched.backends.cpu.program.kernel_args import arguments, row_at, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.opdef import OpDef
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand

ADD, MUL, DIV = range(3)
SCALE, SQR, CLAMP, SOFTCAP, UNARY0 = range(5)  # UNARY0 + i is the i-th function of mathfn.KINDS


@helper
def combine(what: int, a: Any, b: Any) -> Any:
    if what == ADD:
        return add(a, b)
    if what == MUL:
        return mul(a, b)
    return div(a, b)


@kernel("a b -> y | n heads a_token a_head b_token b_head")
def binary_f32(what: int, scalar: int) -> Callable[..., None]:
    """Rows a ∘ b; with `scalar` b has one element per row."""

    def binary(step: int, run: int, ith: int, nth: int) -> None:
        a, b, y, n, heads, a_token, a_head, b_token, b_head = arguments(step)
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
        y = low.result(node, in_place_of=node.sources)
        strides = row_strides(a=a)
        b_token, b_head = _strides_as(b, strides["heads"])
        scalar = int(b.type.shape[-1] == 1 and node.shape[-1] != 1)
        low.step(
            binary_f32(what, scalar),
            a=a,
            b=b,
            y=y,
            n=node.shape[-1],
            **strides,
            b_token=b_token,
            b_head=b_head,
            over=node.type,
        )


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


@kernel("x -> y | n heads x_token x_head | p q")
def map_f32(what: int) -> Callable[..., None]:
    def map_rows(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, heads, x_token, x_head, p, q = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            map_row(what, row_at(x, r, heads, x_token, x_head), y + r * n * 4, n, p, q)

    return map_rows


def _map(low: Low, node: Tensor, what: int, p: float = 0.0, q: float = 0.0) -> None:
    x = low.operand(node.sources[0])
    y = low.result(node, in_place_of=node.sources)
    low.step(map_f32(what), x=x, y=y, n=node.shape[-1], **row_strides(x=x), p=p, q=q, over=node.type)


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


@kernel("a b -> y | n heads a_token a_head b_token b_head | alpha limit")
def mul_unary_f32(kind: int) -> Callable[..., None]:
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
    n, strides = y.type.shape[-1], row_strides(a=a, b=b)
    low.step(kernel, a=a, b=b, y=y, n=n, **strides, alpha=alpha, limit=limit, rows=rows_of(y.type))


@ops.fused_mul_unary.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    a, b = map(low.operand, node.sources)
    gate_up(low, mul_unary_f32(KINDS[node.attrs["kind"]]), a, b, low.result(node, in_place_of=node.sources))


@ops.swiglu_oai.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    a, b = map(low.operand, node.sources)
    y = low.result(node, in_place_of=node.sources)
    gate_up(low, mul_unary_f32(SWIGLU_OAI), a, b, y, node.attrs["alpha"], node.attrs["limit"])


@helper
def row_sum(x: int, n: int) -> float:
    full = n // 16 * 16
    acc = splat(0.0, 16)
    for i in range(0, full, 16):
        acc = add(acc, load(x + 4 * i, F32, 16))
    if full < n:
        acc = add(acc, load_first(x + 4 * full, F32, 16, n - full))
    return sum_lanes(acc)


@kernel("x -> y | n heads x_token x_head")
def sum_rows_f32() -> Callable[..., None]:
    def sum_rows(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            put(y + 4 * r, row_sum(row_at(x, r, heads, x_token, x_head), n), F32)

    return sum_rows


@ops.sum_rows.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    y = low.result(node)
    low.step(sum_rows_f32(), x=x, y=y, n=x.type.shape[-1], **row_strides(x=x), over=node.type)


@kernel("x -> y | n used")
def multi_add_f32() -> Callable[..., None]:
    def multi_add(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, used = arguments(step)
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
    y, used = low.result(node), x.type.shape[1]
    low.step(multi_add_f32(), x=x, y=y, n=node.shape[-1], used=used, over=node.type)
