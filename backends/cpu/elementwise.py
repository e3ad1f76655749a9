"""Elementwise kernels: rows of the last dimension, 16 lanes at a time."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.language.jit import helper, kernel, specialised
from graphsched.backends.cpu.language.lanes import fold_lanes, for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.mathfn import KINDS, exp, gated, tanh
from graphsched.backends.cpu.language.simd import (
    add,
    div,
    fma,
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
    sub,
    sum_lanes,
    where_less,
)
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, row_at, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides
from graphsched.graph import ops
from graphsched.graph.opdef import OpDef
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand

ADD, MUL, DIV = range(3)
Lanes = Callable[[Any, Any], Any]


@helper
def combine(what: int, a: Any, b: Any) -> Any:
    """a ∘ b on 16 lanes."""
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
        for r in range(first, last):
            t, h = r // heads, r % heads
            pa, pb, py = a + t * a_token + h * a_head, b + t * b_token + h * b_head, y + r * n * 4
            one = splat(get(pb, F32), 16)
            combine_rows(n, what, scalar, pa, pb, one, py)

    return binary


@for_lanes(16)
def combine_rows(i: int, block: Any, what: int, scalar: int, a: int, b: int, one: Any, y: int) -> None:
    """y = a ∘ b, or a ∘ one if it is scalar; called with (n, what, ...)."""
    vb = one if scalar else load_lanes(b + 4 * i, F32, block)
    store_lanes(y + 4 * i, combine(what, load_lanes(a + 4 * i, F32, block), vb), F32, block)


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
    @definition.lowering("cpu", when=_is_simple, strided=("a", "b"))
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


def of_lanes(x: Any, a: Any) -> Any:
    """What a map does to 16 lanes of x; `a`: the kernel's arguments."""
    raise NotImplementedError


def map_rows(step: int, run: int, ith: int, nth: int) -> None:
    """The loop of every map, whose `of_lanes` is another function in each."""
    a = arguments(step)
    first, last = share(rows(step, run), ith, nth)
    full = a.n // 16 * 16
    for r in range(first, last):
        src, dst = row_at(a.x, r, a.heads, a.x_token, a.x_head), a.y + 4 * r * a.n
        for i in range(0, full, 16):
            store(dst + 4 * i, of_lanes(load(src + 4 * i, F32, 16), a), F32)
        if full < a.n:
            left = a.n - full
            v = load_first(src + 4 * full, F32, 16, left)
            store_first(dst + 4 * full, of_lanes(v, a), F32, left)


def maps(definition: OpDef[Any], attrs: str = "") -> Callable[[Lanes], Lanes]:
    """Attaches to an op y = f(x), element by element, its lowering on the CPU.

    The decorated function takes 16 lanes of x and a tuple with the attributes named as floats; it returns 16 lanes.
    """
    (name,) = definition.operands

    def attach(lanes: Lanes) -> Lanes:
        declaration = f"x -> y | n heads x_token x_head | {attrs}"
        kernel = specialised(f"{definition.name}_f32", declaration, map_rows, of_lanes=lanes)

        @definition.lowering("cpu", strided=(name,))
        def _(low: Low, node: Tensor) -> None:
            x, n = low.operand(node.sources[0]), node.shape[-1]
            y = low.result(node, in_place_of=node.sources)
            floats = {attr: node.attrs[attr] for attr in attrs.split()}
            low.step(kernel, x=x, y=y, n=n, **row_strides(x=x), **floats, over=node.type)

        return lanes

    return attach


@maps(ops.scale, "by")
def scaled(x: Any, a: Any) -> Any:
    """by · x"""
    return mul(x, splat(a.by, 16))


@maps(ops.sqr)
def squared(x: Any, a: Any) -> Any:
    """x²"""
    return mul(x, x)


@maps(ops.clamp, "low high")
def clamped(x: Any, a: Any) -> Any:
    """x, at least low and at most high"""
    return minimum(maximum(x, splat(a.low, 16)), splat(a.high, 16))


@maps(ops.softcap, "cap")
def softcapped(x: Any, a: Any) -> Any:
    """cap · tanh(x / cap)"""
    return mul(splat(a.cap, 16), tanh(mul(x, splat(1.0 / a.cap, 16))))


@maps(ops.xielu, "alpha_n alpha_p beta eps")
def xielu_lanes(x: Any, a: Any) -> Any:
    """alpha_p · x² above 0, alpha_n · (e^min(x, eps) - 1 - x) below, and beta · x"""
    above = mul(mul(splat(a.alpha_p, 16), x), x)
    below = sub(sub(exp(minimum(x, splat(a.eps, 16))), splat(1.0, 16)), x)
    bent = where_less(splat(0.0, 16), x, above, mul(splat(a.alpha_n, 16), below))
    return fma(splat(a.beta, 16), x, bent)


@helper
def map_row(kind: int, x: int, y: int, n: int) -> None:
    """y[i] = kind(x[i]), a row of n floats."""
    map_lanes(n, kind, x, y)


@for_lanes(16)
def map_lanes(i: int, block: Any, kind: int, x: int, y: int) -> None:
    """`map_row`, called with (n, kind, x, y)."""
    store_lanes(y + 4 * i, gated(kind, load_lanes(x + 4 * i, F32, block)), F32, block)


@kernel("x -> y | n heads x_token x_head")
def unary_f32(kind: int) -> Callable[..., None]:
    """y[r] = kind(x[r]), rows of n floats; see mathfn.KINDS."""

    def unary(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            map_row(kind, row_at(x, r, heads, x_token, x_head), y + r * n * 4, n)

    return unary


@ops.unary.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    x, n = low.operand(node.sources[0]), node.shape[-1]
    y = low.result(node, in_place_of=node.sources)
    low.step(unary_f32(KINDS[node.attrs["kind"]]), x=x, y=y, n=n, **row_strides(x=x), over=node.type)


@helper
def row_sum(x: int, n: int) -> float:
    """The sum of n floats, 16 lanes at a time."""
    return sum_lanes(add_lanes(n, splat(0.0, 16), x))


@fold_lanes(16)
def add_lanes(i: int, block: Any, acc: Any, x: int) -> Any:
    """Adds a row to lanes; called with (n, acc, x)."""
    return add(acc, load_lanes(x + 4 * i, F32, block))


@kernel("x -> y | n heads x_token x_head")
def sum_rows_f32() -> Callable[..., None]:
    """y[r] = Σ x[r, i], one float for each row of n."""

    def sum_rows(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            put(y + 4 * r, row_sum(row_at(x, r, heads, x_token, x_head), n), F32)

    return sum_rows


@ops.sum_rows.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    y = low.result(node)
    low.step(sum_rows_f32(), x=x, y=y, n=x.type.shape[-1], **row_strides(x=x), over=node.type)


@kernel("x -> y | n used")
def multi_add_f32() -> Callable[..., None]:
    """y[r] = Σ_u x[r, u] over `used` rows of n floats, in order."""

    def multi_add(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, used = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        full = n // 16 * 16  # doubled by hand: `for_lanes` takes 10 % longer here for one token
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
    x = low.operand(node.sources[0])
    y, used = low.result(node), x.type.shape[1]
    low.step(multi_add_f32(), x=x, y=y, n=node.shape[-1], used=used, over=node.type)
