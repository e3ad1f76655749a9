"""Launches of elementwise.cu: [tokens, heads, k], strides in floats."""

from collections.abc import Sequence
from typing import Any

from graphsched.backends.cuda.families import rows
from graphsched.backends.cuda.families.dense import as_it_lies, contiguous
from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.fused import ACTIVATIONS
from graphsched.backends.cuda.launch.lowering import At, Low, strides
from graphsched.graph import ops
from graphsched.graph.opdef import OpDef
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes

Strides = tuple[int, int]  # of tokens, of heads
UNARY = (
    *ACTIVATIONS,
    "scale",
    "sqr",
    "clamp",
    "softcap",
    "softplus",
    "sqrt_softplus",
)  # as the kernel numbers them
BINARY = ("add", "mul", "divide", *(f"{a}_mul" for a in ACTIVATIONS))


def binary(
    op: str, a: Address, b: Address, y: Address, n: int, k: int, strides: tuple[int, int, int]
) -> Call:
    """op: one of BINARY (f(a)·b); strides of a, b, y between rows, 0 repeats a row."""
    sa, sb, sy = strides
    return broadcast(op, a, b, y, (n, 1, k), ((sa, 0), (sb, 0), (sy, 0)))


def broadcast(
    op: str,
    a: Address,
    b: Address,
    y: Address,
    shape: Sequence[int],
    strides: Sequence[Strides],
    step: int = 1,
    constants: tuple[float, ...] = (),
) -> Call:
    """Over (tokens, heads, k); strides of a, b, y, 0 repeats; step 0 repeats b within a row."""
    tokens, heads, k = shape
    (a0, a1), (b0, b1), (y0, y1) = strides
    args = (a, b, y, k, a0, a1, b0, b1, step, y0, y1, *constants)
    return Call("elementwise", (), op, (up(k, 256), heads, tokens), 256, args)


def unary(
    how: str,
    x: Address,
    y: Address,
    shape: Sequence[int],
    strides: Sequence[Strides],
    constants: tuple[float, float] = (0.0, 0.0),
) -> Call:
    """how: one of UNARY; strides of x, y."""
    tokens, heads, k = shape
    (x0, x1), (y0, y1) = strides
    args = (x, y, k, x0, x1, y0, y1, UNARY.index(how), *constants)
    return Call("elementwise", (), "unary", (up(k, 256), heads, tokens), 256, args)


def xielu(
    x: Address, y: Address, shape: Sequence[int], strides: Sequence[Strides], constants: Sequence[float]
) -> Call:
    """constants: alpha_n, alpha_p, beta, eps; strides of x, y."""
    tokens, heads, k = shape
    (x0, x1), (y0, y1) = strides
    args = (x, y, k, x0, x1, y0, y1, *constants)
    return Call("elementwise", (), "xielu", (up(k, 256), heads, tokens), 256, args)


def scale(x: Address, y: Address, n: int, k: int, strides: tuple[int, int], by: float) -> Call:
    """y = x · by."""
    return unary("scale", x, y, (n, 1, k), ((strides[0], 0), (strides[1], 0)), (by, 0.0))


def weighted_sum(x: Address, weights: Address, y: Address, tokens: int, used: int, k: int) -> Call:
    """y[t] = Σ_e weights[t, e] · x[t, e]; weights None: 1."""
    return Call("elementwise", (), "weighted_sum", (up(k, 256), 1, tokens), 256, (x, weights, y, k, used))


def add_id(
    x: Address, b: Address, ids: Address, y: Address, shape: Sequence[int], n_expert: int, b_row: int
) -> Call:
    """y[t, u] = x[t, u] + b[ids[t, u]]; shape (tokens, used, k), dense but for the rows of b."""
    tokens, used, k = shape
    args = (x, b, ids, y, k, n_expert, b_row)
    return Call("elementwise", (), "add_id", (up(k, 256), used, tokens), 256, args)


# ---- lowered

F32 = (dtypes.F32,)


def repeated(b: Operand, a: Operand) -> tuple[tuple[int, int], int]:
    """Strides of b as it is read beside a: of tokens and heads, and from element to element."""
    sizes, steps = list(b.type.shape), [s // 4 for s in b.strides]
    lead = len(a.type.shape) - len(sizes)
    sizes, steps = [1] * lead + sizes, [0] * lead + steps
    steps = [0 if int(n) == 1 else s for n, s in zip(sizes, steps, strict=True)]
    if len(steps) == 1:
        return (0, 0), steps[0]
    return (steps[0], steps[1] if len(steps) == 3 else 0), steps[-1]


def two(low: Low, node: Tensor, kernel: str, constants: tuple[float, ...] = ()) -> None:
    """A node of two operands by one launch of `kernel`."""
    a, b = (as_it_lies(low, s) for s in node.sources)
    y = low.result(node, in_place_of=node.sources[:1])
    between, step = repeated(b, a)
    if int(b.type.shape[-1]) == 1 and int(a.type.shape[-1]) == 1:
        step = 0
    per_operand = strides(a), between, strides(y)
    low.launch(
        lambda at: [
            broadcast(kernel, at(a), at(b), at(y), at.shape(node.type), per_operand, step, constants)
        ],
        a,
        b,
        Out(y),
    )


def _one(low: Low, node: Tensor, how: str, constants: tuple[float, float] = (0.0, 0.0)) -> None:
    x, y = low.operand(node.sources[0]), low.result(node, in_place_of=node.sources[:1])
    per_operand = strides(x), strides(y)
    low.launch(lambda at: [unary(how, at(x), at(y), at.shape(node.type), per_operand, constants)], x, Out(y))


def _attach_binary(op: OpDef[Any], kernel: str) -> None:
    @op.lowering("cuda", a=F32, b=F32)
    def _(low: Low, node: Tensor) -> None:
        two(low, node, kernel)


for _op, _kernel in ((ops.add, "add"), (ops.mul, "mul"), (ops.div, "divide")):
    _attach_binary(_op, _kernel)


def _is_activation(node: Tensor) -> bool:
    return node.attrs["kind"] in ACTIVATIONS


@ops.fused_mul_unary.lowering("cuda", when=_is_activation, a=F32, b=F32)
def _(low: Low, node: Tensor) -> None:
    two(low, node, f"{node.attrs['kind']}_mul")


@ops.swiglu_oai.lowering("cuda", gate=F32, up=F32)
def _(low: Low, node: Tensor) -> None:
    two(low, node, "swiglu_oai", (node.attrs["alpha"], node.attrs["limit"]))


@ops.unary.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    _one(low, node, node.attrs["kind"])


@ops.xielu.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    x, y = low.operand(node.sources[0]), low.result(node, in_place_of=node.sources[:1])
    per_operand, constants = (
        (strides(x), strides(y)),
        [node.attrs[name] for name in ("alpha_n", "alpha_p", "beta", "eps")],
    )
    low.launch(lambda at: [xielu(at(x), at(y), at.shape(node.type), per_operand, constants)], x, Out(y))


@ops.scale.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    _one(low, node, "scale", (node.attrs["by"], 0.0))


@ops.sqr.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    _one(low, node, "sqr")


@ops.clamp.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    _one(low, node, "clamp", (node.attrs["low"], node.attrs["high"]))


@ops.softcap.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    _one(low, node, "softcap", (node.attrs["cap"], 0.0))


@ops.sum_rows.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    x, y = contiguous(low, low.operand(node.sources[0])), low.result(node)

    def make(at: At) -> list[Call]:
        n, heads, k = at.shape(x.type)
        return [rows.sum_rows(at(x), at(y), n * heads, k)]

    low.launch(make, x, Out(y))
