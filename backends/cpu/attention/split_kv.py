"""Attention of a single token in parts: threads share a long cache even where a few heads read all of it.

Parts are stretches of PART positions, whatever the number of threads, and are joined in their order: bits depend on
neither, nor on whether the layer keeps a ring or everything.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.attention.common import PART, n_parts
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.lanes import for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.simd import add, get, mul, put, splat, word
from graphsched.backends.cpu.language.soft_max import NEVER, one_exp, rise, scale_row
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, rows, share
from graphsched.backends.cpu.program.layout import N_KV
from graphsched.graph.tensor import Extent, Tensor
from graphsched.types.extents import N_KV_SWA

TOP_AND_TOTAL = 2  # floats behind each part's sums: the highest score, and the sum of weights against it


def in_parts(node: Tensor) -> bool:
    """Whether a token may see more than one part; of sinks, which belong to no part, the merge takes care."""
    cells = node.sources[1].shape[0]
    is_ring = isinstance(cells, Extent) and cells.word == N_KV_SWA
    return int(node.shape[0]) == 1 and (is_ring or int(cells) > PART or len(node.sources) > 5)


def parts_floats(node: Tensor) -> int:
    """Floats that all parts of one token take."""
    return (int(node.sources[1].shape[0]) // PART + 2) * int(node.shape[1]) * (node.shape[2] + TOP_AND_TOTAL)


@kernel("sums sinks? -> y | v_dim size")
def merge_parts() -> Callable[..., None]:
    """y[h] = Σ_p e^(top_p - top) · sums[p, h] / Σ_p e^(top_p - top) · total_p, a sink counting as a total of 1."""

    def merge(step: int, run: int, ith: int, nth: int) -> None:
        sums, sinks, y, v_dim, size = arguments(step)
        heads = rows(step, run)
        parts = n_parts(word(run, N_KV), size)
        first, last = share(heads, ith, nth)
        for h in range(first, last):
            out, top, total = y + 4 * h * v_dim, NEVER, np.float32(0.0)
            if sinks:
                top, total = get(sinks + 4 * h, F32), np.float32(1.0)
            for i in range(v_dim):
                put(out + 4 * i, 0.0, F32)
            for p in range(parts):
                part = sums + 4 * (p * heads + h) * (v_dim + TOP_AND_TOTAL)
                peak = get(part + 4 * v_dim, F32)
                if peak == NEVER:
                    continue
                top, total, factor = rise(top, total, peak)
                weight = one_exp(peak - top)
                total += weight * get(part + 4 * v_dim + 4, F32)
                add_part(v_dim, part, out, factor, weight)
            if total > 0.0:
                scale_row(v_dim, out, np.float32(1.0) / total)

    return merge


@for_lanes(16)
def add_part(i: int, block: Any, part: int, y: int, factor: float, weight: float) -> None:
    """y = y · factor + part · weight; called with (n, part, ...)."""
    so_far = mul(load_lanes(y + 4 * i, F32, block), splat(factor, 16))
    more = mul(splat(weight, 16), load_lanes(part + 4 * i, F32, block))
    store_lanes(y + 4 * i, add(so_far, more), F32, block)
