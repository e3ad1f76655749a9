"""IQ4_NL and IQ4_XS: four-bit codes for 16 values that lie closer together around zero."""

from typing import Final

import numpy as np

from graphsched.types.encode import search
from graphsched.types.encode.blocks32 import block_scale
from graphsched.types.encode.blocks256 import in_order, lanes, scaled
from graphsched.types.encode.packing import Bytes, f16, high, low, nibbles
from graphsched.types.encode.search import Floats, reciprocal
from graphsched.types.layouts import IQ4_NL

_TRIES: Final = tuple(float(t) for t in range(-16, 17, 4))
_PAIRS: Final = np.arange(0, 16, 2).astype(np.uint16)
_GRID: Final = search.codebook(IQ4_NL)
_MIDDLES: Final = (IQ4_NL[1:] + IQ4_NL[:-1]) / 2
_NOTHING: Final = np.float32(1e-15)  # ggml takes a block with no weight above for zeros


def iq4_nl(blocks: Floats, w: Floats | None) -> Bytes:
    """[N, 32] -> [N, 18]"""
    d, values = block_scale(blocks, w, _GRID, _TRIES)
    return np.hstack([f16(d), nibbles(_codes(values), 16)])


def iq4_nl_at_once(blocks: Floats) -> Bytes:
    """[N, 32] -> [N, 18] as ggml's reference does: the largest weight has the lowest code, then the scale is fitted."""
    peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    codes = np.searchsorted(_MIDDLES, blocks * reciprocal(peak / IQ4_NL[0]), side="right").astype(np.uint8)
    values, w = IQ4_NL[codes], blocks * blocks
    d = (w * values * blocks).sum(axis=1) * reciprocal((w * values * values).sum(axis=1))
    zeros = np.abs(peak[:, 0]) < _NOTHING
    codes[zeros], d[zeros] = 0, 0
    return np.hstack([f16(d), nibbles(codes, 16)])


def iq4_xs(blocks: Floats, w: Floats | None) -> Bytes:
    """[N, 256] -> [N, 136]"""
    d, ints, values = scaled(lanes(blocks, 32), lanes(w, 32), _GRID, (-32, 31), _TRIES)
    s = (ints + 32).astype(np.uint8).T
    tops = np.bitwise_or.reduce(high(s).astype("<u2") << _PAIRS, axis=1)
    codes = in_order(_codes(values).astype(np.float32))
    return np.hstack([f16(d), tops[:, None].view(np.uint8), nibbles(low(s), 1), nibbles(codes, 16)])


def _codes(values: Floats) -> Bytes:
    return np.searchsorted(IQ4_NL, values).astype(np.uint8)
