"""W2A8: ternary weights × int8 activations with one scale a token; packing for w2a8.cu, and its launches.

A matrix of several (wqkv, w13) has a scale for each: `row_scales` takes how many rows each has, in order, and the
kernels read one float per row, so no kernel guesses which of them a row belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.call import Address, Call, threads, up
from graphsched.backends.cuda.layout import ALIGN, U8
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


def row_scales(rows: int, parts: Sequence[tuple[int, float]]) -> NDArray[np.float32]:
    """((rows, scale), …) of the matrices in one, top to bottom → a scale for each row."""
    if any(n < 1 for n, _ in parts) or sum(n for n, _ in parts) != rows:
        raise ShapeError(f"w2a8: {' + '.join(str(n) for n, _ in parts)} rows are not {rows}")
    counts, scales = zip(*parts, strict=True)
    return np.repeat(np.array(scales, np.float32), counts)


@dataclass(frozen=True)
class Matrix:
    """A packed matrix and where its product goes, y[tokens, rows - skip]: its first `skip` rows are not written."""

    w: Address
    scales: Address
    y: Address
    rows: int
    skip: int = 0


NONE = Matrix(None, None, None, 0)
AT_ONCE = 3  # matrices of one launch


def part_of(w: int, scales: int, y: Address, rows: tuple[int, int], k: int) -> Matrix:
    """Rows from rows[0] to rows[1] - 1 of a packed matrix."""
    tile, (first, last) = rows[0] // ROWS, rows
    skipped = tile * ROWS
    return Matrix(w + nbytes(skipped, k), scales + 4 * skipped, y, last - skipped, first - skipped)


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
    return products((Matrix(w, scales, y, rows),), q, ds, tokens, k, sms, split)


def products(
    matrices: Sequence[Matrix],
    q: Address,
    ds: Address,
    tokens: int,
    k: int,
    sms: int = 132,
    split: int | None = None,
) -> Call:
    """The products of up to AT_ONCE matrices with one x, in one launch; only the first may be a part of a matrix."""
    _check(k)
    whole = [*matrices, NONE, NONE][:AT_ONCE]
    flat = [a for m in whole for a in (m.w, m.scales, m.y, m.rows)]
    args = (*flat, matrices[0].skip, q, ds, tokens, k)
    if tokens > 16:
        grid = up(tokens, 128), sum(up(m.rows, 128) for m in matrices)
        return Call("w2a8", (), "w2a8_prompt", grid, BLOCK, args)
    split = split or split_of(sum(m.rows for m in matrices), k, sms)
    most = next(n for n in (1, 2, 4, 8, 16) if n >= tokens)
    blocks = sum(up(up(m.rows, ROWS), WARPS // split) for m in matrices)
    return Call("w2a8", (), f"w2a8_{most}", (blocks,), BLOCK, (*args, split))


def get_rows(w: Address, scales: Address, which: Address, y: Address, n: int, rows: int, k: int) -> Call:
    """y[i] = row which[i] of a packed matrix, as floats; a row outside the matrix is zeros."""
    _check(k)
    return Call("w2a8", (), "w2a8_rows", (up(k, 16 * 128), n), 128, (w, scales, which, y, rows, k))


def split_of(rows: int, k: int, sms: int) -> int:
    """Warps that share a tile's columns: enough to keep 16 a multiprocessor, while each has two steps."""
    split = 1
    while split < WARPS and up(rows, ROWS) * split < 16 * sms and padded(k) // COLUMNS >= 4 * split:
        split *= 2
    return split


def quantize(
    x: Address,
    norm: Address,
    q: Address,
    ds: Address,
    tokens: int,
    k: int,
    stride: int,
    eps: float = 1e-5,
    y: Address = None,
    residual: tuple[Address, Address] = (None, None),
) -> Call:
    """x[tokens, k] → q int8[tokens, padded(k)], ds[tokens] = (scale, sum of q).

    With `norm`, its weights: of rms_norm(x) · norm, which also goes to y unless that is None. residual as in rms_norm.
    """
    _check(k)
    args = (x, *residual, norm, y, q, ds, k, stride, eps)
    return Call("w2a8", (), "quantize_token", (tokens,), threads(up(k, 4)), args)


def _check(k: int) -> None:
    if k % 4 or not 0 < k <= MOST:
        raise ShapeError(f"w2a8: k = {k} must be a multiple of 4, at most {MOST}")
