"""Blocks of 32 weights with an F16 scale of their own.

Without importance Q4_0 to Q5_1 are `gguf.quants`', which round to the largest weight; with it their scales are
searched, as llama.cpp does.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from graphsched.types.encode import search
from graphsched.types.encode.packing import Bytes, bits, f16, low, nibbles
from graphsched.types.encode.search import Floats, Grid, half, reciprocal

_TRIES: Final = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)


def block_scale(
    blocks: Floats, w: Floats | None, grid: Grid, tries: Sequence[float]
) -> tuple[Floats, Floats]:
    """Scales [N] as F16 keeps them, and the values [N, 32] that they multiply."""
    x, w = np.ascontiguousarray(blocks.T), w if w is None else np.ascontiguousarray(w.T)
    d = half(search.scaled(x, w, grid, tries))
    return d, grid.nearest(x * reciprocal(d)).T


def q4_0(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 32] as Q4_0, weighted by `w`; uint8 [n, bytes of a block]."""
    d, q = block_scale(blocks, w, search.integers(-8, 7), _TRIES)
    return np.hstack([f16(d), nibbles((q + 8).astype(np.uint8), 16)])


def q5_0(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 32] as Q5_0, weighted by `w`; uint8 [n, bytes of a block]."""
    d, q = block_scale(blocks, w, search.integers(-16, 15), _TRIES)
    codes = (q + 16).astype(np.uint8)
    return np.hstack([f16(d), bits(codes > 15), nibbles(low(codes), 16)])


def q4_1(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 32] as Q4_1, weighted by `w`; uint8 [n, bytes of a block]."""
    ends, codes = _affine(blocks, w, 15)
    return np.hstack([ends, nibbles(codes, 16)])


def q5_1(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 32] as Q5_1, weighted by `w`; uint8 [n, bytes of a block]."""
    ends, codes = _affine(blocks, w, 31)
    return np.hstack([ends, bits(codes > 15), nibbles(low(codes), 16)])


def _affine(blocks: Floats, w: Floats | None, top: int) -> tuple[Bytes, Bytes]:
    """Scale and minimum [N, 4], codes [N, 32]."""
    x, w = np.ascontiguousarray(blocks.T), w if w is None else np.ascontiguousarray(w.T)
    d, m = map(half, search.affine(x, w, top, _TRIES))
    q = search.integers(0, top).nearest((x + m) * reciprocal(d)).T
    return np.hstack([f16(d), f16(-m)]), q.astype(np.uint8)
