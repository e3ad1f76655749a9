"""Expert routing: choosing experts and joining their results."""

from collections.abc import Iterator

import numpy as np

from graphsched.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.ops.attention import soft_max
from graphsched.ops.elementwise import clamp, div, sum_rows
from graphsched.ops.movement import get_rows
from graphsched.ops.several import several
from graphsched.tensor import Tensor, TensorType, f32, i32


@op(Op.ARGSORT, rowwise=True)
def top_k(x: Tensor, *, k: int) -> TensorType:
    """Indices of the k largest of each row, largest first; of equals the lower index first"""
    require(0 < k <= x.shape[-1], f"top_k: {k} of {x}")
    return i32(*x.shape[:-1], k)


@top_k.reference
def _(x: Array, *, k: int) -> Array:
    return np.argsort(-x, axis=-1, kind="stable")[..., :k].astype(np.int32)


@top_k.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 8), k=2)
    yield case(f32(3, 64), k=6)
    yield case(f32(3, 5), k=5)


@op(Op.GROUPED_TOPK, rowwise=True)
def grouped_top_k(x: Tensor, *, k: int, n_group: int, n_group_used: int) -> TensorType:
    """top_k among the experts of the n_group_used best groups; a group scores the sum of its two largest"""
    require(x.shape[-1] % n_group == 0, f"grouped_top_k: {n_group} groups do not divide {x}")
    require(
        0 < k <= x.shape[-1] // n_group * n_group_used, f"grouped_top_k: {k} of {n_group_used} groups of {x}"
    )
    return i32(*x.shape[:-1], k)


@grouped_top_k.reference
def _(x: Array, *, k: int, n_group: int, n_group_used: int) -> Array:
    groups = x.reshape(len(x), n_group, -1)
    score = np.sort(groups, axis=-1)[..., -2:].sum(axis=-1)
    kept = np.argsort(-score, axis=-1, kind="stable")[:, :n_group_used]
    masked = np.full_like(groups, -np.inf)
    np.put_along_axis(masked, kept[..., None], np.take_along_axis(groups, kept[..., None], axis=1), axis=1)
    return np.argsort(-masked.reshape(x.shape), axis=-1, kind="stable")[:, :k].astype(np.int32)


@grouped_top_k.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 32), k=4, n_group=4, n_group_used=2)
    yield case(f32(33, 256), k=8, n_group=8, n_group_used=4)
    yield case(f32(3, 6), k=4, n_group=3, n_group_used=2)
    yield case(f32(3, 4), k=2, n_group=4, n_group_used=2)


@op(Op.MULTI_ADD, rowwise=True)
def multi_add(x: Tensor) -> TensorType:
    """y[t] = Σ_u x[t, u]"""
    require(len(x.shape) == 3, f"multi_add: {x} must be [tokens, experts used, width]")
    return f32(x.shape[0], x.shape[2])


@multi_add.reference
def _(x: Array) -> Array:
    out = x[:, 0].copy()
    for u in range(1, x.shape[1]):
        out += x[:, u]
    return as_f32(out)


@multi_add.flops
def _(x: TensorType) -> int:
    return x.numel


@multi_add.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 6, 33))
    yield case(f32(1, 2, 64))


@op(Op.SWIGLU_OAI, rowwise=True)
def swiglu_oai(gate: Tensor, up: Tensor, *, alpha: float = 1.702, limit: float = 7.0) -> TensorType:
    """g · sigmoid(alpha · g) · (u + 1) with g = min(gate, limit) and u = clamp(up, -limit, limit)"""
    require(gate.shape == up.shape, f"swiglu_oai: {gate} and {up} differ")
    return gate.type


@swiglu_oai.reference
def _(gate: Array, up: Array, *, alpha: float, limit: float) -> Array:
    g, u = np.minimum(gate, np.float32(limit)), np.clip(up, np.float32(-limit), np.float32(limit))
    return as_f32(g / (1.0 + np.exp(-np.clip(alpha * g, -80, None))) * (u + 1.0))


@swiglu_oai.flops
def _(gate: TensorType, up: TensorType, *, alpha: float, limit: float) -> int:
    return 8 * gate.numel


@swiglu_oai.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 33), f32(5, 33), alpha=1.702, limit=7.0)
    yield case(f32(5, 4, 64), f32(5, 4, 64), alpha=1.702, limit=0.5)


@several(Op.TOPK_MOE)
def topk_moe(logits: Tensor, *, k: int, least: float | None = None) -> tuple[Tensor, ...]:
    """Experts of the k largest softmax(logits), and their probabilities; with `least` over their sum, at least that"""
    probs = soft_max(logits)
    ids = top_k(probs, k=k)
    weights = get_rows(probs, ids)
    if least is None:
        return ids, weights
    return ids, div(weights, clamp(sum_rows(weights), low=least, high=float("inf")))


@topk_moe.cases
def _() -> Iterator[Case]:
    for n, k in ((8, 2), (64, 6), (128, 8), (5, 5), (33, 4)):
        for least in (None, 6.103515625e-5):
            yield case(f32(5, n), k=k, least=least)
            yield case(f32(1, n), k=k, least=least)
