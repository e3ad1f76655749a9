"""Q2_K to Q6_K: scales of sub-blocks are searched, then packed as ggml lays them out. Blocks are [N, 256]."""

from typing import Final

import numpy as np

from graphsched.types.encode import search
from graphsched.types.encode.blocks256 import affine, in_order, lanes, scaled
from graphsched.types.encode.packing import Bytes, bits, crumbs, f16, high, low, nibbles, sixths
from graphsched.types.encode.search import Floats

_TRIES: Final = (-0.6, -0.2, 0.2, 0.6)
_FEW_BITS: Final = (-0.5, -0.3, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9)


def q2_k(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 256] as Q2_K, weighted by `w`; uint8 [n, bytes of a block]."""
    ends, (s, m), q = affine(lanes(blocks, 16), lanes(w, 16), 3, 15, _FEW_BITS)
    scales = (s.astype(np.uint8) | m.astype(np.uint8) << np.uint8(4)).T
    return np.hstack([scales, _quarters(in_order(q)), *map(f16, ends)])


def q3_k(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 256] as Q3_K, weighted by `w`; uint8 [n, bytes of a block]."""
    d, ints, q = scaled(lanes(blocks, 16), lanes(w, 16), search.integers(-4, 3), (-32, 31), _TRIES)
    codes, s = in_order(q + 4), (ints + 32).astype(np.uint8).T
    scales = [low(s[:, :8]) | low(s[:, 8:]) << np.uint8(4), crumbs(high(s).reshape(-1, 4, 4))]
    return np.hstack([_top_bits(codes > 3), _quarters(codes & np.uint8(3)), *scales, f16(d)])


def q4_k(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 256] as Q4_K, weighted by `w`; uint8 [n, bytes of a block]."""
    ends, (s, m), q = affine(lanes(blocks, 32), lanes(w, 32), 15, 63, _TRIES)
    scales = sixths(s.astype(np.uint8).T, m.astype(np.uint8).T)
    return np.hstack([*map(f16, ends), scales, nibbles(in_order(q), 32)])


def q5_k(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 256] as Q5_K, weighted by `w`; uint8 [n, bytes of a block]."""
    ends, (s, m), q = affine(lanes(blocks, 32), lanes(w, 32), 31, 63, _TRIES)
    codes, scales = in_order(q), sixths(s.astype(np.uint8).T, m.astype(np.uint8).T)
    return np.hstack([*map(f16, ends), scales, _top_bits(codes > 15), nibbles(low(codes), 32)])


def q6_k(blocks: Floats, w: Floats | None) -> Bytes:
    """Blocks [n, 256] as Q6_K, weighted by `w`; uint8 [n, bytes of a block]."""
    d, s, q = scaled(lanes(blocks, 16), lanes(w, 16), search.integers(-32, 31), (-128, 127), _TRIES)
    codes, n = in_order(q + 32), len(blocks)
    tops = crumbs(high(codes).reshape(n, 2, 4, 32)).reshape(n, -1)
    scales = np.ascontiguousarray(s.T).astype(np.int8).view(np.uint8)
    return np.hstack([nibbles(low(codes), 64), tops, scales, f16(d)])


def _quarters(codes: Bytes) -> Bytes:
    """Two-bit codes [N, 256] -> [N, 64]: weights 32 apart share a byte."""
    return crumbs(codes.reshape(-1, 2, 4, 32)).reshape(len(codes), -1)


def _top_bits(flags: np.ndarray) -> Bytes:
    """[N, 256] -> [N, 32]: weights 32 apart share a byte."""
    return bits(flags.reshape(-1, 8, 32).swapaxes(1, 2))[..., 0]
