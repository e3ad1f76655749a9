"""Expert routing: choosing experts and summing their results."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.ops.attention import soft_max
from graphsched.graph.ops.elementwise import add, clamp, div, mul, scale, sigmoid, sum_rows
from graphsched.graph.ops.movement import get_rows
from graphsched.graph.ops.several import several
from graphsched.graph.tensor import Tensor, TensorType, f32, i32


@op(Op.ARGSORT, rowwise=True)
def top_k(x: Tensor, *, k: int) -> TensorType:
    """Indices of the k largest of each row, largest first; of equals the lower index first"""
    require(0 < k <= x.shape[-1], "top_k: {} of {}", k, x)
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
    require(x.shape[-1] % n_group == 0, "grouped_top_k: {} groups do not divide {}", n_group, x)
    require(
        0 < k <= x.shape[-1] // n_group * n_group_used,
        "grouped_top_k: {} of {} groups of {}",
        k,
        n_group_used,
        x,
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
    require(len(x.shape) == 3, "multi_add: {} must be [tokens, experts used, width]", x)
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


@several(Op.MUL_MULTI_ADD)
def mul_multi_add(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    """y[t] = Σ_u w[t, u] · x[t, u]"""
    require(w.shape == (*x.shape[:2], 1), "mul_multi_add: {} is no weight for each row of {}", w, x)
    return (multi_add(mul(x, w)),)


@mul_multi_add.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 6, 33), f32(5, 6, 1))
    yield case(f32(1, 2, 64), f32(1, 2, 1))


@op(Op.SWIGLU_OAI, rowwise=True)
def swiglu_oai(gate: Tensor, up: Tensor, *, alpha: float = 1.702, limit: float = 7.0) -> TensorType:
    """g · sigmoid(alpha · g) · (u + 1) with g = min(gate, limit) and u = clamp(up, -limit, limit)"""
    require(gate.shape == up.shape, "swiglu_oai: {} and {} differ", gate, up)
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


# How logits become probabilities: of all experts, or of the chosen ones alone. llama.cpp's expert_gating_func.
GATINGS = ("softmax", "sigmoid", "softmax_weight", "sigmoid_weight")


def _gated(x: Tensor, gating: str) -> Tensor:
    return soft_max(x) if gating == "softmax" else sigmoid(x) if gating == "sigmoid" else x


@several(Op.TOPK_MOE)
def topk_moe(
    logits: Tensor,
    bias: Tensor | None = None,
    *,
    k: int,
    gating: str = "softmax",
    n_group: int = 1,
    n_group_used: int = 1,
    least: float | None = None,
    by: float = 1.0,
) -> tuple[Tensor, ...]:
    """The k experts of largest probability, and their weights: these probabilities, normalised or not, times `by`

    least: if not None, weights are divided by their sum, or by this if it is larger. gating: one of GATINGS; those of
    `_weight` choose by logits and apply the function to the chosen. bias: added for the choice alone, which takes the
    n_group_used best groups as grouped_top_k does.
    """
    require(gating in GATINGS, "topk_moe: no gating {}; there are {}", gating, ", ".join(GATINGS))
    probs = _gated(logits, gating)
    score = probs if bias is None else add(probs, bias)
    groups = {"n_group": n_group, "n_group_used": n_group_used}
    ids = grouped_top_k(score, k=k, **groups) if n_group > 1 else top_k(score, k=k)
    weights = _gated(get_rows(probs, ids), gating.removesuffix("_weight") if probs is logits else "")
    if least is not None:
        weights = div(weights, clamp(sum_rows(weights), low=least, high=float("inf")))
    return ids, weights if by == 1.0 else scale(weights, by=by)


@topk_moe.cases
def _() -> Iterator[Case]:
    f16_least = 6.103515625e-5
    for n, k in ((8, 2), (64, 6), (128, 8), (5, 5), (33, 4)):
        for least in (None, f16_least):
            yield case(f32(5, n), k=k, least=least)
            yield case(f32(1, n), k=k, least=least)
    for gating in GATINGS:
        yield case(f32(3, 36), k=4, gating=gating, by=2.5)
        yield case(f32(3, 36), f32(36), k=18, gating=gating, least=f16_least)
    for n, k, n_group, used in ((256, 8, 8, 4), (6, 4, 3, 2), (4, 2, 4, 2)):
        groups: dict[str, Any] = {"n_group": n_group, "n_group_used": used}
        yield case(f32(3, n), f32(n), k=k, gating="sigmoid", least=f16_least, by=2.5, **groups)
        yield case(f32(3, n), k=k, **groups)
