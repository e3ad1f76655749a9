"""Codes to bytes, in the orders that ggml's layouts share."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.types.encode.search import Floats

Bytes = NDArray[np.uint8]
_SHIFTS: Final = np.array([0, 2, 4, 6], np.uint8)


def f16(d: Floats) -> Bytes:
    """[N] -> [N, 2]"""
    return d.astype("<f2")[:, None].view(np.uint8)


def crumbs(codes: Bytes) -> Bytes:
    """Two-bit codes [..., 4, n] -> bytes [..., n], the first in the lowest bits."""
    return np.bitwise_or.reduce(codes << _SHIFTS[:, None], axis=-2)


def nibbles(codes: Bytes, apart: int) -> Bytes:
    """Four-bit codes [N, K] -> [N, K / 2]: weights that are `apart` share a byte, the first in its low half."""
    pairs = codes.reshape(len(codes), -1, 2, apart)
    return (pairs[:, :, 0] | pairs[:, :, 1] << np.uint8(4)).reshape(len(codes), -1)


def low(codes: Bytes) -> Bytes:
    """The low four bits."""
    return codes & np.uint8(15)


def high(codes: Bytes) -> Bytes:
    """The bits above the low four."""
    return codes >> np.uint8(4)


def bits(flags: NDArray[np.bool_]) -> Bytes:
    """[..., 8 n] -> bytes [..., n], the first in the lowest bit."""
    return np.packbits(flags, axis=-1, bitorder="little")


def sixths(s: Bytes, m: Bytes) -> Bytes:
    """Eight six-bit scales and minima [N, 8] -> [N, 12]: the last four lend their high bits to the first."""
    ends = [v[:, :4] | high(v[:, 4:]) << np.uint8(6) for v in (s, m)]
    return np.hstack([*ends, low(s[:, 4:]) | low(m[:, 4:]) << np.uint8(4)])
