"""Hyper-connections: how a sub-layer reads several streams of a token, and writes to them."""

from collections.abc import Iterator

import numpy as np

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.tensor import Tensor, TensorType, f32


@op(Op.HC_WEIGHTS, rowwise=True, named_by_weight=False, label="hc_weights")
def hc_weights(x: Tensor, scale: Tensor, base: Tensor, *, n: int, rounds: int, eps: float) -> TensorType:
    """[σ(x₀ · s₀ + b₀) + eps | 2 · σ(x₁ · s₁ + b₁) | C] of rows x = [x₀ | x₁ | x₂] with n, n and n · n numbers

    C [to, from] comes from softmax(x₂ · s₂ + b₂) + eps, which is [from, to], its softmax over `to`: columns are divided
    by their sums + eps, then rows and columns in turn, `rounds` times columns (Sinkhorn and Knopp 1967).
    """
    width = n * (n + 2)
    fits = x.shape[1:] == (width,) == base.shape and scale.shape == (3,)
    require(fits, "hc_weights: {}, {}, {} do not fit", x, scale, base)
    return x.type


@hc_weights.reference
def _(x: Array, scale: Array, base: Array, *, n: int, rounds: int, eps: float) -> Array:
    x = x * np.repeat(scale.astype(np.float64), (n, n, n * n)) + base
    read, write = 1 / (1 + np.exp(-x[:, :n])), 2 / (1 + np.exp(-x[:, n : 2 * n]))
    comb = x[:, 2 * n :].reshape(-1, n, n)  # [from, to]
    comb = np.exp(comb - comb.max(axis=2, keepdims=True))
    comb = comb / comb.sum(axis=2, keepdims=True) + eps
    comb = comb / (comb.sum(axis=1, keepdims=True) + eps)
    for _ in range(rounds - 1):
        comb = comb / (comb.sum(axis=2, keepdims=True) + eps)
        comb = comb / (comb.sum(axis=1, keepdims=True) + eps)
    return as_f32(np.concatenate([read + eps, write, comb.swapaxes(1, 2).reshape(-1, n * n)], axis=1))


@hc_weights.flops
def _(x: TensorType, *_: TensorType, n: int, rounds: int, eps: float) -> int:
    return x.numel * (8 + 4 * rounds)


@hc_weights.cases
def _() -> Iterator[Case]:
    for t, n, rounds in ((1, 4, 3), (7, 4, 20), (5, 3, 1)):
        yield case(f32(t, n * (n + 2)), f32(3), f32(n * (n + 2)), n=n, rounds=rounds, eps=1e-3)
