"""Split-KV attention of a single token: threads share a long cache even where a few heads read all of it.

The cache is cut into chunks of KV_CHUNK positions, whatever the number of threads, and their partial results are merged
in order: bits depend neither on the threads nor on whether the layer keeps a window or everything.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.attention.common import KV_CHUNK, n_kv_chunks, query_at
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.lanes import clear, for_lanes, load_lanes, store_lanes
from graphsched.backends.cpu.language.simd import add, get, mul, splat
from graphsched.backends.cpu.language.soft_max import NEVER, one_exp, rise, scale_row
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, rows, share
from graphsched.graph.tensor import Extent, Tensor
from graphsched.types.extents import N_KV_SWA

TOP_AND_TOTAL = 2  # floats behind each chunk's sums: the highest score, and the sum of weights against it


def splits_kv(node: Tensor) -> bool:
    """Whether a token may see more than one chunk, or has sinks: these belong to no chunk, so the merge adds them."""
    cells = node.sources[1].shape[0]
    is_of_window = isinstance(cells, Extent) and cells.word == N_KV_SWA
    return int(node.shape[0]) == 1 and (is_of_window or int(cells) > KV_CHUNK or len(node.sources) > 5)


def partials_floats(node: Tensor) -> int:
    """Floats that the partial results of one token take."""
    return (
        (int(node.sources[1].shape[0]) // KV_CHUNK + 2) * int(node.shape[1]) * (node.shape[2] + TOP_AND_TOTAL)
    )


@kernel("sums where sinks? -> y | v_dim window chunk")
def merge_chunks() -> Callable[..., None]:
    """y[h] = Σ_p e^(top_p - top) · sums[p, h] / Σ_p e^(top_p - top) · total_p, a sink counting as a total of 1."""

    def merge(step: int, run: int, ith: int, nth: int) -> None:
        sums, where, sinks, y, v_dim, window, chunk = arguments(step)
        heads = rows(step, run)
        chunks = n_kv_chunks(query_at(where, window, chunk))
        first, last = share(heads, ith, nth)
        for h in range(first, last):
            out, top, total = y + 4 * h * v_dim, NEVER, np.float32(0.0)
            if sinks:
                top, total = get(sinks + 4 * h, F32), np.float32(1.0)
            clear(v_dim, out)
            for p in range(chunks):
                partial = sums + 4 * (p * heads + h) * (v_dim + TOP_AND_TOTAL)
                peak = get(partial + 4 * v_dim, F32)
                if peak == NEVER:
                    continue
                top, total, factor = rise(top, total, peak)
                weight = one_exp(peak - top)
                total += weight * get(partial + 4 * v_dim + 4, F32)
                add_partial(v_dim, partial, out, factor, weight)
            if total > 0.0:
                scale_row(v_dim, out, np.float32(1.0) / total)

    return merge


@for_lanes(16)
def add_partial(i: int, block: Any, partial: int, y: int, factor: float, weight: float) -> None:
    """y = y · factor + partial · weight; called with (n, partial, ...)."""
    so_far = mul(load_lanes(y + 4 * i, F32, block), splat(factor, 16))
    more = mul(splat(weight, 16), load_lanes(partial + 4 * i, F32, block))
    store_lanes(y + 4 * i, add(so_far, more), F32, block)
