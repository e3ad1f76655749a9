"""Launches of copy.cu: conversions, rows by index, weights to floats."""

from collections.abc import Sequence
from dataclasses import dataclass

from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.fused import CACHE_BLOCKS
from graphsched.backends.cuda.launch.layout import KERNEL_TYPE

BLOCKS = 64  # of a kernel that copies bytes: enough loads under way to fill a link
ROW_HEADERS = [kind for t, kind in CACHE_BLOCKS.items() if t.row_header]


def copy(
    x: Address, y: Address, types: tuple[str, str], shape: Sequence[int], xs: Sequence[int], ys: Sequence[int]
) -> Call:
    """Four dimensions, strides in elements; types ("f32", "f16") and the like."""
    n0, n1, n2, n3 = shape
    args = (x, y, n1, n3, *xs, *ys)
    return Call("copy", (), f"copy_{types[0]}_{types[1]}", (n0 * n1, n2, up(n3, 256)), 256, args)


@dataclass(frozen=True)
class Rows:
    """Rows of x, `k` wide in all heads, for y; strides of x in elements, of y in elements too, of blocks in bytes."""

    x: Address
    y: Address
    k: int
    x_stride: int
    y_stride: int
    heads: int = 1


def set_rows(to: str, ids: Address, rows: int, *pairs: Rows) -> Call:
    """y[ids[i]] = x[i], f32 → `to`, for one pair or two; rows whose id is below 0 are skipped."""
    assert to not in CACHE_BLOCKS.values() or not any(p.k % 32 for p in pairs)
    assert 1 <= len(pairs) <= 2
    if to in ROW_HEADERS:  # heads have rows of their own
        each = (
            v for p in (pairs * 2)[:2] for v in (p.x, p.y, p.k // p.heads, p.x_stride, p.y_stride, p.heads)
        )
        grid = (max(p.heads for p in pairs), rows, len(pairs))
        return Call("copy", (), f"set_rows_{to}", grid, 32, (ids, *each))
    flat = (v for p in (pairs * 2)[:2] for v in (p.x, p.y, p.k, p.x_stride, p.y_stride))
    grid = (up(max(p.k for p in pairs), 256), rows, len(pairs))
    return Call("copy", (), f"set_rows_{to}", grid, 256, (ids, *flat))


def get_rows(
    kind: str, x: Address, ids: Address, y: Address, shape: Sequence[int], rows: int, strides: tuple[int, int]
) -> Call:
    """y[t, h] = x[ids[t], h] as dense floats; all rows without ids, and zeros for a row outside of `rows`.

    kind: f32, f16, bf16, or a type of caches; shape (n, heads, k), strides of x's rows and heads in bytes.
    """
    n, heads, k = shape
    return Call("copy", (), f"get_rows_{kind}", (n, heads, up(k, 256)), 256, (x, ids, y, rows, k, *strides))


def copy_rows(y: Address, source: Address, target: Address, n: int, row_bytes: int) -> Call:
    """y[target[i]] = y[source[i]], n rows of bytes; none is both."""
    grid = (min(BLOCKS, max(1, up(row_bytes, 256 * 16))), n)
    return Call("copy", (), "copy_rows", grid, 256, (y, source, target, row_bytes))


def dequantize(kind: str, w: Address, y: Address, which: Address, n: int, rows: int, k: int) -> Call:
    """Rows which[0..n) of a repacked tensor → f32; decode.py has whole matrices."""
    t = KERNEL_TYPE[kind]
    return Call("copy", (t,), f"to_f32_{t}", (up(k // 32, 128), n), 128, (w, y, which, rows, k))


def choose(
    x: Address, ids: Address, y: Address, shape: Sequence[int], n: int, strides: tuple[int, int]
) -> Call:
    """y[t, u] = x[t, ids[t, u]] of n rows a token; shape (tokens, used, k); strides of x's tokens and rows."""
    tokens, used, k = shape
    return Call("copy", (), "choose", (up(k, 256), used, tokens), 256, (x, ids, y, n, k, *strides))


def fetch_rows(x: Address, y: Address, row_bytes: int, rows: Address, most: int) -> Call:
    """Mapped host memory → device: as many rows as `rows` says, at most `most`."""
    grid = (min(BLOCKS, max(1, up(row_bytes * most, 256 * 16))),)
    return Call("copy", (), "fetch_rows", grid, 256, (x, y, row_bytes, rows))


def fetch_experts(x: Address, y: Address, ids: Address, n_ids: int, n_expert: int, nbytes: int) -> Call:
    """Mapped host memory → device: the experts that ids name, `nbytes` (a multiple of 16) each."""
    grid = (min(BLOCKS, max(1, up(nbytes, 256 * 16))), n_expert)
    return Call("copy", (), "fetch_experts", grid, 256, (x, y, ids, n_ids, nbytes // 16))
