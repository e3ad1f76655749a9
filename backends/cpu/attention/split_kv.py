"""Attention of a single token in parts: threads share a long cache even where a few heads read all of it.

Parts are stretches of PART positions, whatever the number of threads, and are joined in their order: bits depend on
neither, nor on whether the layer keeps a ring or everything.
"""

from collections.abc import Callable

import numpy as np

from graphsched.backends.cpu.attention.common import PART, n_parts
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.mathfn import NEVER, one_exp, scale_row
from graphsched.backends.cpu.language.simd import get, put, word
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
                peak, weight = get(part + 4 * v_dim, F32), np.float32(1.0)
                if peak == NEVER:
                    continue
                if peak > top:
                    factor = one_exp(top - peak)
                    total = total * factor
                    scale_row(out, factor, v_dim)
                    top = peak
                else:
                    weight = one_exp(peak - top)
                total += weight * get(part + 4 * v_dim + 4, F32)
                for i in range(v_dim):
                    put(out + 4 * i, get(out + 4 * i, F32) + weight * get(part + 4 * i, F32), F32)
            if total > 0.0:
                scale_row(out, np.float32(1.0) / total, v_dim)

    return merge
