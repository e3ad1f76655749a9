"""Launches of copy.cu: conversions, rows by index, weights to floats."""

from collections.abc import Sequence
from dataclasses import dataclass

from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.fused import CACHE_BLOCKS
from graphsched.backends.cuda.launch.layout import KERNEL_TYPE

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


def set_rows(to: str, slots: Address, rows: int, *pairs: Rows) -> Call:
    """y[slots[i]] = x[i], f32 → `to`, for one pair or two; a slot below 0 is skipped."""
    assert to not in CACHE_BLOCKS.values() or not any(p.k % 32 for p in pairs)
    assert 1 <= len(pairs) <= 2
    if to in ROW_HEADERS:  # heads have rows of their own
        each = (
            v for p in (pairs * 2)[:2] for v in (p.x, p.y, p.k // p.heads, p.x_stride, p.y_stride, p.heads)
        )
        grid = (max(p.heads for p in pairs), rows, len(pairs))
        return Call("copy", (), f"set_rows_{to}", grid, 32, (slots, *each))
    flat = (v for p in (pairs * 2)[:2] for v in (p.x, p.y, p.k, p.x_stride, p.y_stride))
    grid = (up(max(p.k for p in pairs), 256), rows, len(pairs))
    return Call("copy", (), f"set_rows_{to}", grid, 256, (slots, *flat))


def get_rows(
    kind: str, x: Address, which: Address, y: Address, n: int, rows: int, k: int, stride: int
) -> Call:
    """y[i] = x[which[i]] for a matrix of f32, f16 or bf16; a row outside the matrix is zeros."""
    return Call("copy", (), f"get_rows_{kind}", (up(k, 256), n), 256, (x, which, y, rows, k, stride))


def dequantize(kind: str, w: Address, y: Address, which: Address, n: int, rows: int, k: int) -> Call:
    """Rows which[0..n) of a repacked tensor → f32; decode.py has whole matrices."""
    t = KERNEL_TYPE[kind]
    return Call("copy", (t,), f"to_f32_{t}", (up(k // 32, 128), n), 128, (w, y, which, rows, k))


def from_blocks(kind: str, x: Address, y: Address, shape: Sequence[int], strides: tuple[int, int]) -> Call:
    """A cache in blocks as dense floats; shape (rows, heads, k), strides of x's heads and rows in bytes."""
    rows, heads, k = shape
    return Call("copy", (), f"copy_{kind}_f32", (rows, heads, up(k, 256)), 256, (x, y, k, *strides))


def choose(
    x: Address, ids: Address, y: Address, shape: Sequence[int], n: int, strides: tuple[int, int]
) -> Call:
    """y[t, u] = x[t, ids[t, u]] of n rows a token; shape (tokens, used, k); strides of x's tokens and rows."""
    tokens, used, k = shape
    return Call("copy", (), "choose", (up(k, 256), used, tokens), 256, (x, ids, y, n, k, *strides))


BLOCKS = 64  # of a kernel that reads host memory: enough loads under way to fill the link


def fetch_rows(x: Address, y: Address, row_bytes: int, rows: Address, most: int) -> Call:
    """Mapped host memory → device: as many rows as `rows` says, at most `most`."""
    grid = (min(BLOCKS, max(1, up(row_bytes * most, 256 * 16))),)
    return Call("copy", (), "fetch_rows", grid, 256, (x, y, row_bytes, rows))


def fetch_experts(x: Address, y: Address, ids: Address, n_ids: int, n_expert: int, nbytes: int) -> Call:
    """Mapped host memory → device: the experts that ids name, `nbytes` (a multiple of 16) each."""
    grid = (min(BLOCKS, max(1, up(nbytes, 256 * 16))), n_expert)
    return Call("copy", (), "fetch_experts", grid, 256, (x, y, ids, n_ids, nbytes // 16))
