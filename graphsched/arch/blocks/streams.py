"""Streams: several rows per token that layers read and write as mixtures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from graphsched.arch.blocks.attention import heads, side_by_side
from graphsched.arch.blocks.linear import linear
from graphsched.arch.blocks.moe import as_row, weighted_sum
from graphsched.arch.config import Config, key
from graphsched.arch.weights import Weights
from graphsched.graph.ops import (
    concat,
    hc_weights,
    multi_add,
    repeat,
    rms_norm,
    scale,
    sigmoid,
    sum_rows,
    view,
)
from graphsched.graph.tensor import Tensor


def stacked(*rows: Tensor) -> Tensor:
    """Rows of each token as streams. N · [T, D] -> [T, N, D]"""
    return heads(reduce(concat, rows), len(rows))


def mixed(x: Tensor, weights: Tensor) -> Tensor:
    """Σ_n weights[m, n] · x[n] for each m, with weights [T, M · N] row by row. [T, N, D] -> [T, M, D]"""
    n = int(x.shape[1])
    rows = range(0, int(weights.shape[1]), n)
    sums = [weighted_sum(x, view(weights, start=at, stop=at + n)) for at in rows]
    return heads(reduce(concat, sums), len(sums))


def one(x: Tensor, n: int) -> Tensor:
    """Stream n. [T, N, D] -> [T, D]"""
    d = int(x.shape[2])
    return view(side_by_side(x), start=n * d, stop=(n + 1) * d)


def others(x: Tensor) -> Tensor:
    """All streams but the first. [T, N, D] -> [T, N - 1, D]"""
    n, d = int(x.shape[1]), int(x.shape[2])
    return heads(view(side_by_side(x), start=d, stop=n * d), n - 1)


def root_mean_square(x: Tensor) -> Tensor:
    """sqrt(mean(x²)) over the last dimension, which must not be all 0. [..., D] -> [..., 1]"""
    return scale(sum_rows(x * rms_norm(x, eps=0.0)), by=1.0 / int(x.shape[-1]))


@dataclass(frozen=True, kw_only=True)
class ManifoldConfig(Config):
    """Keys of hyper-connections whose mixing matrices are made doubly stochastic (mHC)."""

    rms_eps: float = key("attention.layer_norm_rms_epsilon")
    n_streams: int = key("hyper_connection.count", low=2, high=16)
    hc_rounds: int = key("hyper_connection.sinkhorn_iterations", low=1, high=1000)
    hc_eps: float = key("hyper_connection.epsilon")


def manifold(
    c: ManifoldConfig, blk: Weights, name: str, x: Tensor, sub_layer: Callable[[Tensor], Tensor]
) -> Tensor:
    """A sub-layer [T, D] -> [T, D] of a mixture of the streams; they mix, and each gets a share of its result.

    By the weights hc_NAME_fn, _scale and _base. [T, N, D] -> [T, N, D]
    """
    n = c.n_streams
    wide = n * (n + 2)
    seen = linear(blk, f"hc_{name}_fn", rms_norm(side_by_side(x), eps=c.rms_eps), wide)
    scales, base = blk.sized(f"hc_{name}_scale", 3), blk.sized(f"hc_{name}_base", wide)
    weights = hc_weights(seen, scales, base, n=n, rounds=c.hc_rounds, eps=c.hc_eps)
    y = sub_layer(weighted_sum(x, view(weights, start=0, stop=n)))
    shares = heads(view(weights, start=n, stop=2 * n), n)  # [T, N, 1]
    return mixed(x, view(weights, start=2 * n, stop=wide)) + repeat(as_row(y), n=n) * shares


def merged(c: ManifoldConfig, w: Weights, x: Tensor) -> Tensor:
    """A mixture of the streams by the weights output_hc_fn, _scale and _base. [T, N, D] -> [T, D]"""
    seen = linear(w, "output_hc_fn", rms_norm(side_by_side(x), eps=c.rms_eps), c.n_streams)
    gates = sigmoid(seen * w.sized("output_hc_scale", 1) + w.sized("output_hc_base", c.n_streams))
    return weighted_sum(x, gates) + scale(multi_add(x), by=c.hc_eps)
