"""Ternary matrices in tiles of 16 rows × 128 columns, as w2a8.cu describes them: their sizes, packed and back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.launch.call import up
from graphsched.backends.cuda.launch.layout import ALIGN, U8
from graphsched.errors import ShapeError

ROWS, COLUMNS = 16, 128  # of a tile, which is 512 bytes
MOST = 1 << 17  # columns whose sums float32 holds exactly: 127 · 2^17 < 2^24


def padded(k: int) -> int:
    """Columns of a packed matrix, and of a row of quantised activations."""
    return up(k, COLUMNS) * COLUMNS


def nbytes(rows: int, k: int) -> int:
    """Bytes of a packed matrix without its scales."""
    return up(rows, ROWS) * ROWS * padded(k) // 4


def scales_at(rows: int, k: int) -> int:
    """Where the scales of a packed matrix start: behind its tiles."""
    return up(nbytes(rows, k), ALIGN) * ALIGN


def scaled_bytes(rows: int, k: int) -> int:
    """Bytes of a packed matrix with its scales."""
    return scales_at(rows, k) + 4 * rows


def pack(weights: NDArray[np.int8]) -> U8:
    """weights[rows, k] of -1, 0, 1 → tiles as w2a8.cu describes them; what fills up the last ones is zero."""
    if weights.ndim != 2 or np.abs(weights).max(initial=0) > 1:
        raise ShapeError("w2a8: weights must be a matrix of -1, 0 and 1")
    return pack_codes((weights + np.int8(1)).view(np.uint8))


def pack_codes(codes: U8) -> U8:
    """The same for codes 0, 1, 2."""
    rows, k = codes.shape
    codes = np.pad(codes, ((0, -rows % ROWS), (0, -k % COLUMNS)), constant_values=1)
    # row tile, upper rows, row, column tile, half, quarter, field, byte
    c = codes.reshape(-1, 2, 8, padded(k) // COLUMNS, 2, 4, 4, 4)
    words = c[..., 0, :] | c[..., 1, :] << 2 | c[..., 2, :] << 4 | c[..., 3, :] << 6
    # of a tile: row, quarter, half, upper rows, byte
    return np.ascontiguousarray(words.transpose(0, 3, 2, 5, 4, 1, 6)).reshape(-1)


def unpack(packed: NDArray[np.uint8], rows: int, k: int) -> NDArray[np.int8]:
    """The weights back, as the kernels' lanes see them."""
    words = packed.reshape(-1, padded(k) // COLUMNS, 8, 4, 2, 2, 1, 4)
    codes = words >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    # row tile, column tile, row, quarter, half, upper rows, field, byte
    flat = codes.transpose(0, 5, 2, 1, 4, 3, 6, 7).reshape(-1, padded(k))
    return flat[:rows, :k].astype(np.int8) - np.int8(1)


def row_scales(rows: int, matrices: Sequence[tuple[int, float]]) -> NDArray[np.float32]:
    """((rows, scale), …) of the matrices in one, top to bottom → a scale for each row."""
    if any(n < 1 for n, _ in matrices) or sum(n for n, _ in matrices) != rows:
        raise ShapeError(f"w2a8: {' + '.join(str(n) for n, _ in matrices)} rows are not {rows}")
    counts, scales = zip(*matrices, strict=True)
    return np.repeat(np.array(scales, np.float32), counts)
