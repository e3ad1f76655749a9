"""W2A8: ternary weights × int8 activations with one scale a token: the launches of w2a8.cu.

A matrix of several (wqkv, w13) has a scale for each: `row_scales` takes how many rows each has, in order, and the
kernels read one float per row, so no kernel guesses which of them a row belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from graphsched.backends.cuda.launch.call import Address, Call, threads, up
from graphsched.backends.cuda.launch.ternary_tiles import COLUMNS, MOST, ROWS, nbytes, padded
from graphsched.errors import ShapeError

BLOCK, WARPS = 256, 8


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


def rows_of(w: int, scales: int, y: Address, rows: tuple[int, int], k: int) -> Matrix:
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
