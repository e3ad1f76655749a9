"""Ternary weights as BitNet checkpoints store them: master weights, Hugging Face's packing, Microsoft's for GPUs."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]
_SHIFTS: Final = np.array([0, 2, 4, 6], np.uint8)
# Of 16 weights in an int32, element e is at these bits: bytes hold e, e + 4, e + 8, e + 12.
_INTERLEAVED: Final = np.array([e % 4 * 8 + e // 4 * 2 for e in range(16)], np.uint32)


def rounded_to_bf16(x: Floats) -> Floats:
    """The nearest BF16 values, ties to even: scales of all these checkpoints are BF16."""
    bits = np.atleast_1d(x).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32).reshape(np.shape(x))


def absmean(w: Floats) -> Floats:
    """Master weights as training sees them: -s, 0 or s with s = mean |w|; weights that are that already stay."""
    size = np.abs(w)
    largest = size.max(initial=0)
    if ((size == 0) | (size == largest)).all():
        return w
    scale = rounded_to_bf16(np.maximum(size.mean(dtype=np.float64), 1e-5).astype(np.float32))
    return np.clip(np.rint(w / scale), -1, 1).astype(np.float32) * scale


def unpack_rows(packed: NDArray[np.uint8]) -> Codes:
    """Hugging Face's packing [N / 4, K] -> [N, K]: a byte holds rows that are N / 4 apart, from the lowest bits up."""
    codes = packed[None] >> _SHIFTS[:, None, None] & np.uint8(3)
    return codes.reshape(-1, packed.shape[1]).astype(np.int8) - 1


def unpack_tiles(packed: NDArray[np.int8]) -> Codes:
    """Microsoft's packing for dp4a [N, K / 4] -> [N, K].

    Tiles of 16 rows and 32 columns; in a tile 32 chunks of 16 columns of one row: rows 0 to 7 left, rows 0 to 7
    right, rows 8 to 15 left and right. A chunk is an int32 of codes 1, 2, 3, interleaved for the kernel.
    """
    n, k = packed.shape[0], packed.shape[1] * 4
    chunks = np.ascontiguousarray(packed).view("<u4").reshape(n // 16, k // 32, 2, 2, 8)
    codes = (chunks[..., None] >> _INTERLEAVED & np.uint32(3)).astype(np.int8) - 2
    return codes.transpose(0, 2, 4, 1, 3, 5).reshape(n, k)


def pack_tiles(w: Codes) -> NDArray[np.int8]:
    """The inverse of `unpack_tiles`."""
    n, k = w.shape
    chunks = (w.reshape(n // 16, 2, 8, k // 32, 2, 16) + 2).transpose(0, 3, 1, 4, 2, 5).astype(np.uint32)
    words = np.bitwise_or.reduce(chunks << _INTERLEAVED, axis=-1).astype("<u4")
    return np.ascontiguousarray(words).view(np.int8).reshape(n, k // 4)
