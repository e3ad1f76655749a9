"""Normalisation."""

from collections.abc import Iterator

import numpy as np

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.ops.elementwise import add
from graphsched.graph.ops.several import several
from graphsched.graph.tensor import Tensor, TensorType, f32


@op(Op.RMS_NORM, rowwise=True, label="norm")
def rms_norm(x: Tensor, *, eps: float) -> TensorType:
    """y = x / sqrt(mean(x²) + eps) over the last dimension"""
    return x.type


@rms_norm.reference
def _(x: Array, *, eps: float) -> Array:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=np.float64) + eps).astype(np.float32)


@rms_norm.flops
def _(x: TensorType, *, eps: float) -> int:
    return 3 * x.numel  # square, accumulate, scale


@rms_norm.cases
def _() -> Iterator[Case]:
    for n in (1, 33, 64, 1025):  # off the vector width, on it, off the block size
        yield case(f32(5, n), eps=1e-6)
    yield case(f32(3, 4, 24), eps=1e-1)


@op(Op.L2_NORM, rowwise=True, label="norm")
def l2_norm(x: Tensor, *, eps: float) -> TensorType:
    """y = x / sqrt(Σ x² + eps) over the last dimension"""
    return x.type


@l2_norm.reference
def _(x: Array, *, eps: float) -> Array:
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True, dtype=np.float64) + eps).astype(np.float32)


@l2_norm.flops
def _(x: TensorType, *, eps: float) -> int:
    return 3 * x.numel


@l2_norm.cases
def _() -> Iterator[Case]:
    for n in (1, 33, 64, 1025):
        yield case(f32(5, n), eps=1e-6)
    yield case(f32(3, 4, 24), eps=1e-1)


@op(Op.FUSED_RMS_NORM, rowwise=True)
def fused_rms_norm(x: Tensor, w: Tensor, *, eps: float) -> TensorType:
    """y = w · x / sqrt(mean(x²) + eps) over the last dimension"""
    require(w.shape == x.shape[-1:], "rms_norm: weight {} does not fit {}", w, x)
    return x.type


@fused_rms_norm.reference
def _(x: Array, w: Array, *, eps: float) -> Array:
    return w * (
        x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True, dtype=np.float64) + eps).astype(np.float32)
    )


@fused_rms_norm.flops
def _(x: TensorType, w: TensorType, *, eps: float) -> int:
    return 4 * x.numel


@fused_rms_norm.cases
def _() -> Iterator[Case]:
    for n in (1, 33, 64, 1025):
        yield case(f32(5, n), f32(n), eps=1e-6)
    yield case(f32(3, 4, 24), f32(24), eps=1e-1)


@op(Op.NORM, rowwise=True, label="norm")
def layer_norm(x: Tensor, *, eps: float) -> TensorType:
    """y = (x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) over the last dimension"""
    return x.type


@layer_norm.reference
def _(x: Array, *, eps: float) -> Array:
    return _centred(x, eps)


def _centred(x: Array, eps: float) -> Array:
    away = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float64)
    return as_f32(away / np.sqrt(np.mean(away * away, axis=-1, keepdims=True) + eps))


@layer_norm.flops
def _(x: TensorType, *, eps: float) -> int:
    return 5 * x.numel  # accumulate, subtract, square, accumulate, scale


@layer_norm.cases
def _() -> Iterator[Case]:
    for n in (1, 33, 64, 1025):
        yield case(f32(5, n), eps=1e-5)
    yield case(f32(3, 4, 24), eps=1e-1)


@op(Op.FUSED_NORM, rowwise=True)
def fused_norm(x: Tensor, w: Tensor, *, eps: float) -> TensorType:
    """y = w · (x - mean(x)) / sqrt(mean((x - mean(x))²) + eps) over the last dimension"""
    require(w.shape == x.shape[-1:], "norm: weight {} does not fit {}", w, x)
    return x.type


@fused_norm.reference
def _(x: Array, w: Array, *, eps: float) -> Array:
    return w * _centred(x, eps)


@fused_norm.flops
def _(x: TensorType, w: TensorType, *, eps: float) -> int:
    return 6 * x.numel


@fused_norm.cases
def _() -> Iterator[Case]:
    for n in (1, 33, 64, 1025):
        yield case(f32(5, n), f32(n), eps=1e-5)
    yield case(f32(3, 4, 24), f32(24), eps=1e-1)


@several(Op.FUSED_ADD_RMS_NORM)
def fused_add_rms_norm(x: Tensor, y: Tensor, w: Tensor, *, eps: float) -> tuple[Tensor, ...]:
    """s = x + y, and w · s / sqrt(mean(s²) + eps) over the last dimension"""
    total = add(x, y)
    return total, fused_rms_norm(total, w, eps=eps)


@fused_add_rms_norm.cases
def _() -> Iterator[Case]:
    for n in (1, 33, 64, 1025):
        yield case(f32(5, n), f32(5, n), f32(n), eps=1e-6)
    yield case(f32(1, 2048), f32(1, 2048), f32(2048), eps=1e-5)
