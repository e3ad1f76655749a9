"""Elementwise ops, broadcasting as numpy does."""

from collections.abc import Callable, Iterator

import numpy as np

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.tensor import Tensor, TensorType, f32


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-np.clip(x, -80, None)))


def _gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(0.7978845608028654 * x * (1.0 + 0.044715 * x * x)))


def _softplus(x: Array) -> Array:
    """ln(1 + e^x), and x above 20, where the rest is below the last bit of a float32."""
    return np.where(x > 20.0, x, np.log1p(np.exp(np.minimum(x, 20.0))))


UNARY: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x * _sigmoid(x),
    "gelu": _gelu,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "sqrt_softplus": lambda x: np.sqrt(_softplus(x)),
}


def _broadcast(name: str, a: Tensor, b: Tensor) -> TensorType:
    """b must broadcast to a: the result has a's shape, so that token capacities stay on the left operand."""
    shape_b = (1,) * (len(a.shape) - len(b.shape)) + tuple(b.shape)
    fits = len(shape_b) == len(a.shape) and all(y in (1, x) for x, y in zip(a.shape, shape_b, strict=True))
    require(fits, "{}: {} does not broadcast to {}", name, b, a)
    return a.type


def _binary_cases() -> Iterator[Case]:
    yield case(f32(5, 33), f32(5, 33))
    yield case(f32(5, 33), f32(33))
    yield case(f32(4, 3, 32), f32(4, 3, 1))
    yield case(f32(4, 3, 32), f32(3, 32))
    yield case(f32(1, 2048), f32(1, 2048))


@op(Op.ADD, rowwise=True, named_by_weight=False, keeps_label=True)
def add(a: Tensor, b: Tensor) -> TensorType:
    """a + b"""
    return _broadcast("add", a, b)


@add.reference
def _(a: Array, b: Array) -> Array:
    return a + b


@add.flops
def _(a: TensorType, b: TensorType) -> int:
    return a.numel


add.cases(_binary_cases)


@op(Op.MUL, rowwise=True, keeps_label=True)
def mul(a: Tensor, b: Tensor) -> TensorType:
    """a · b"""
    return _broadcast("mul", a, b)


@mul.reference
def _(a: Array, b: Array) -> Array:
    return a * b


@mul.flops
def _(a: TensorType, b: TensorType) -> int:
    return a.numel


mul.cases(_binary_cases)


@op(Op.DIV, rowwise=True)
def div(a: Tensor, b: Tensor) -> TensorType:
    """a / b"""
    return _broadcast("div", a, b)


@div.reference
def _(a: Array, b: Array) -> Array:
    return a / b


@div.flops
def _(a: TensorType, b: TensorType) -> int:
    return a.numel


@div.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 33), f32(5, 1), tolerance=1e-6)


@op(Op.SCALE, rowwise=True, keeps_label=True)
def scale(x: Tensor, *, by: float) -> TensorType:
    """by · x"""
    return x.type


@scale.reference
def _(x: Array, *, by: float) -> Array:
    return x * np.float32(by)


@scale.flops
def _(x: TensorType, *, by: float) -> int:
    return x.numel


@scale.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 33), by=2.5)


@op(Op.SQR, rowwise=True)
def sqr(x: Tensor) -> TensorType:
    """x²"""
    return x.type


@sqr.reference
def _(x: Array) -> Array:
    return x * x


@sqr.flops
def _(x: TensorType) -> int:
    return x.numel


@sqr.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 33))


@op(Op.CLAMP, rowwise=True)
def clamp(x: Tensor, *, low: float, high: float) -> TensorType:
    """min(max(x, low), high)"""
    return x.type


@clamp.reference
def _(x: Array, *, low: float, high: float) -> Array:
    return np.clip(x, np.float32(low), np.float32(high))


@clamp.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 33), low=-0.5, high=0.75)
    yield case(f32(5, 33), low=float("-inf"), high=0.75)


@op(Op.SOFTCAP, rowwise=True, keeps_label=True)
def softcap(x: Tensor, *, cap: float) -> TensorType:
    """cap · tanh(x / cap)"""
    return x.type


@softcap.reference
def _(x: Array, *, cap: float) -> Array:
    return as_f32(cap * np.tanh(x / np.float32(cap)))


@softcap.flops
def _(x: TensorType, *, cap: float) -> int:
    return 3 * x.numel


@softcap.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 33), cap=2.0)


@op(Op.UNARY, rowwise=True)
def unary(x: Tensor, *, kind: str) -> TensorType:
    """kind(x), one of silu, gelu (tanh form), relu, sigmoid, softplus, sqrt_softplus"""
    require(kind in UNARY, "unary: no function {}; there are {}", kind, ", ".join(UNARY))
    return x.type


@unary.reference
def _(x: Array, *, kind: str) -> Array:
    return as_f32(UNARY[kind](x))


@unary.flops
def _(x: TensorType, *, kind: str) -> int:
    return 4 * x.numel


@unary.cases
def _() -> Iterator[Case]:
    for kind in UNARY:
        yield case(f32(5, 33), kind=kind)


@op(Op.XIELU, rowwise=True)
def xielu(x: Tensor, *, alpha_n: float, alpha_p: float, beta: float, eps: float) -> TensorType:
    """alpha_p · x² + beta · x above 0, alpha_n · (e^min(x, eps) - 1 - x) + beta · x below"""
    return x.type


@xielu.reference
def _(x: Array, *, alpha_n: float, alpha_p: float, beta: float, eps: float) -> Array:
    below = alpha_n * (np.expm1(np.minimum(x, eps, dtype=np.float64)) - x)
    return as_f32(np.where(x > 0, alpha_p * x * x, below) + beta * x)


@xielu.flops
def _(x: TensorType, **attrs: float) -> int:
    return 8 * x.numel


@xielu.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 33), alpha_n=0.9, alpha_p=0.7, beta=0.5, eps=-1e-6)


@op(Op.FUSED_MUL_UNARY, rowwise=True)
def fused_mul_unary(a: Tensor, b: Tensor, *, kind: str) -> TensorType:
    """kind(a) · b: the gate of a gated feed-forward"""
    require(kind in UNARY, "fused_mul_unary: no function {}; there are {}", kind, ", ".join(UNARY))
    require(a.shape == b.shape, "fused_mul_unary: {} and {} differ", a, b)
    return a.type


@fused_mul_unary.reference
def _(a: Array, b: Array, *, kind: str) -> Array:
    return as_f32(UNARY[kind](a) * b)


@fused_mul_unary.flops
def _(a: TensorType, b: TensorType, *, kind: str) -> int:
    return 5 * a.numel


@fused_mul_unary.cases
def _() -> Iterator[Case]:
    for kind in UNARY:
        yield case(f32(5, 33), f32(5, 33), kind=kind)
    yield case(f32(4, 2, 48), f32(4, 2, 48), kind="silu")


@op(Op.SUM_ROWS, rowwise=True)
def sum_rows(x: Tensor) -> TensorType:
    """Σ over the last dimension, which stays with length 1"""
    return f32(*x.shape[:-1], 1)


@sum_rows.reference
def _(x: Array) -> Array:
    return as_f32(np.add.reduce(x, axis=-1, keepdims=True, dtype=np.float64))


@sum_rows.flops
def _(x: TensorType) -> int:
    return x.numel


@sum_rows.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 33))
    yield case(f32(5, 8))


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x)"""
    return unary(x, kind="silu")


def gelu(x: Tensor) -> Tensor:
    """x · Φ(x) in the tanh approximation that ggml computes"""
    return unary(x, kind="gelu")


def relu(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return unary(x, kind="relu")


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))"""
    return unary(x, kind="sigmoid")


def sqrt_softplus(x: Tensor) -> Tensor:
    """sqrt(ln(1 + e^x))"""
    return unary(x, kind="sqrt_softplus")


def softplus(x: Tensor) -> Tensor:
    """ln(1 + e^x)"""
    return unary(x, kind="softplus")
