"""Blocks that three or more architectures share."""

from typing import Any

from graphsched.arch import Weights
from graphsched.ops import (
    Rope,
    clamp,
    div,
    get_rows,
    mul_mat,
    mul_mat_id,
    multi_add,
    reshape,
    rms_norm,
    silu,
    soft_max,
    sum_rows,
    top_k,
)
from graphsched.tensor import Tensor

SMALLEST_NORMAL_F16 = 6.103515625e-5  # what llama.cpp clamps the sum of expert weights to


def norm(c: Any, x: Tensor, w: Tensor) -> Tensor:
    """rms(x) · w with the config's epsilon"""
    return rms_norm(x, eps=c.rms_eps) * w


def linear(blk: Weights, name: str, x: Tensor) -> Tensor:
    """x · Wᵀ, plus the bias if the file has one. [T, in] -> [T, out]"""
    y = mul_mat(blk[name], x)
    return y + blk[f"{name}.bias"] if f"{name}.bias" in blk else y


def heads(x: Tensor, n: int) -> Tensor:
    """[T, n · d] -> [T, n, d]"""
    return reshape(x, shape=(x.shape[0], n, x.shape[1] // n))


def gated_ffn(blk: Weights, x: Tensor, suffix: str = "") -> Tensor:
    """down(silu(gate(x)) · up(x)); `suffix` picks ffn_*_shexp"""
    gate, up = linear(blk, f"ffn_gate{suffix}", x), linear(blk, f"ffn_up{suffix}", x)
    return linear(blk, f"ffn_down{suffix}", silu(gate) * up)


def experts(blk: Weights, x: Tensor, *, n_used: int, normalised: bool) -> Tensor:
    """Softmax routing to n_used experts and the weighted sum of their feed-forwards."""
    probs = soft_max(mul_mat(blk.ffn_gate_inp, x))  # [T, E]
    ids = top_k(probs, k=n_used)  # [T, K]
    weights = get_rows(probs, ids)
    if normalised:
        weights = div(weights, clamp(sum_rows(weights), low=SMALLEST_NORMAL_F16, high=float("inf")))
    row = reshape(x, shape=(x.shape[0], 1, x.shape[1]))  # [T, 1, D] meets K experts
    gate, up = mul_mat_id(blk.ffn_gate_exps, row, ids), mul_mat_id(blk.ffn_up_exps, row, ids)
    y = mul_mat_id(blk.ffn_down_exps, silu(gate) * up, ids)  # [T, K, D]
    return multi_add(y * reshape(weights, shape=(*weights.shape, 1)))


def head(c: Any, w: Weights, x: Tensor) -> Tensor:
    """Final norm and output projection; a file without output.weight ties it to the embedding."""
    x = norm(c, x, w.output_norm)
    return mul_mat(w.output if "output" in w else w.token_embd, x)


def rope_of(c: Any, mode: str) -> Rope:
    """The rotary embedding that the rope.* keys describe."""
    import math

    yarn = c.rope_scaling == "yarn"
    magnitude = c.rope_attn_factor * (1.0 + 0.1 * math.log(c.rope_factor) if yarn else 1.0)
    return Rope(
        n_rot=c.rope_dim,
        base=c.rope_base,
        mode=mode,
        factor=c.rope_factor if c.rope_scaling != "none" else 1.0,
        yarn=yarn,
        original_context=c.rope_context,
        magnitude=magnitude,
    )
