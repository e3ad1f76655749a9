"""W2A8: ternary weights × int8 activations with one scale a token; packing for w2a8.cu, and its launches.

A matrix of several (wqkv, w13) has a scale for each: `row_scales` takes how many rows each has, in order, and the
kernels read one float per row, so no kernel guesses which of them a row belongs to.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.call import Address, Call, threads, up
from graphsched.errors import ShapeError

ROWS, COLUMNS = 16, 128  # of a tile, which is 512 bytes
BLOCK, WARPS = 256, 8
MOST = 1 << 17  # columns whose sums float32 holds exactly: 127 · 2^17 < 2^24


def padded(k: int) -> int:
    """Columns of a packed matrix, and of a row of quantised activations."""
    return up(k, COLUMNS) * COLUMNS


def nbytes(rows: int, k: int) -> int:
    """Bytes of a packed matrix without its scales."""
    return up(rows, ROWS) * ROWS * padded(k) // 4


def pack(weights: NDArray[np.int8]) -> NDArray[np.uint8]:
    """weights[rows, k] of -1, 0, 1 → tiles as w2a8.cu describes them; what fills up the last ones is zero."""
    if weights.ndim != 2 or np.abs(weights).max(initial=0) > 1:
        raise ShapeError("w2a8: weights must be a matrix of -1, 0 and 1")
    rows, k = weights.shape
    codes = np.pad(weights, ((0, -rows % ROWS), (0, -k % COLUMNS))) + np.int8(1)
    # row tile, upper rows, row, column tile, half, quarter, field, byte
    c = codes.view(np.uint8).reshape(-1, 2, 8, padded(k) // COLUMNS, 2, 4, 4, 4)
    words = c[..., 0, :] | c[..., 1, :] << 2 | c[..., 2, :] << 4 | c[..., 3, :] << 6
    return np.ascontiguousarray(words.transpose(0, 3, 2, 5, 4, 1, 6)).reshape(-1)


def unpack(packed: NDArray[np.uint8], rows: int, k: int) -> NDArray[np.int8]:
    """The weights back, as the kernels' lanes see them."""
    words = packed.reshape(-1, padded(k) // COLUMNS, 8, 4, 2, 2, 1, 4)
    codes = words >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    # row tile, column tile, row, quarter, half, upper rows, field, byte
    flat = codes.transpose(0, 5, 2, 1, 4, 3, 6, 7).reshape(-1, padded(k))
    return flat[:rows, :k].astype(np.int8) - np.int8(1)


def row_scales(rows: int, parts: Sequence[tuple[int, float]]) -> NDArray[np.float32]:
    """((rows, scale), …) of the matrices in one, top to bottom → a scale for each row."""
    if any(n < 1 for n, _ in parts) or sum(n for n, _ in parts) != rows:
        raise ShapeError(f"w2a8: {' + '.join(str(n) for n, _ in parts)} rows are not {rows}")
    counts, scales = zip(*parts, strict=True)
    return np.repeat(np.array(scales, np.float32), counts)


def product(
    w: Address,
    scales: Address,
    q: Address,
    ds: Address,
    y: Address,
    tokens: int,
    rows: int,
    k: int,
    sms: int = 132,
    split: int | None = None,
) -> Call:
    """y[tokens, rows] = x · wᵀ: dp4a up to 4 tokens, tensor cores for more; the bits are those of one token."""
    _check(k)
    args = (w, scales, q, ds, y, tokens, rows, k, rows)
    if tokens > 16:
        return Call("w2a8", (), "w2a8_prompt", (up(tokens, 128), up(rows, 128)), BLOCK, args)
    split = split or split_of(rows, k, sms)
    most = next(n for n in (1, 2, 4, 8, 16) if n >= tokens)
    return Call("w2a8", (), f"w2a8_{most}", (up(up(rows, ROWS), WARPS // split),), BLOCK, (*args, split))


def split_of(rows: int, k: int, sms: int) -> int:
    """Warps that share a tile's columns: enough to keep 16 a multiprocessor, while each has two steps."""
    split = 1
    while split < WARPS and up(rows, ROWS) * split < 16 * sms and padded(k) // COLUMNS >= 4 * split:
        split *= 2
    return split


def quantize(
    x: Address, norm: Address, q: Address, ds: Address, tokens: int, k: int, stride: int, eps: float = 1e-5
) -> Call:
    """x[tokens, k] → q int8[tokens, padded(k)], ds[tokens] = (scale, sum of q); of rms_norm(x) · norm unless None."""
    _check(k)
    if stride % 4:
        raise ShapeError(f"w2a8: the row stride {stride} must be a multiple of 4")
    return Call("w2a8", (), "quantize_token", (tokens,), threads(up(k, 4)), (x, norm, q, ds, k, stride, eps))


def _check(k: int) -> None:
    if k % 4 or not 0 < k <= MOST:
        raise ShapeError(f"w2a8: k = {k} must be a multiple of 4, at most {MOST}")
