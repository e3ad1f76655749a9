"""Streams: several rows per token that layers read and write as mixtures."""

from functools import reduce

from graphsched.arch.blocks.attention import heads, side_by_side
from graphsched.arch.blocks.moe import weighted_sum
from graphsched.graph.ops import concat, rms_norm, scale, sum_rows, view
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
