"""Compiled loops over the units of a piece. A step has the words below, then the addresses of the piece's runs."""

from typing import Any

from graphsched.backends.cpu.formats.forms import FORMS, codes64
from graphsched.backends.cpu.formats.ternary import row_scale
from graphsched.backends.cpu.language.jit import by_literal, kernel
from graphsched.backends.cpu.language.simd import get, load, put, splat_i8, store, word
from graphsched.backends.cpu.language.simd_int import interleave
from graphsched.backends.cpu.language.vector import F32, I8, U8
from graphsched.backends.cuda.packing.bits import crumbs
from graphsched.backends.cuda.packing.blocks import pack_block

# words: file bytes, how many units, bytes until the matrix ends, see below
SOURCE, UNITS, LEFT, WIDE, RUNS = range(5)
ONES = 0x55  # four codes of weights that are zero


@kernel(None)
def pack_planes(t: int, size: int, q_size: int, h_size: int, s_size: int, b_size: int) -> Any:
    """Blocks one after the other; a unit is a block."""

    def impl(step: int, run: int, ith: int, nth: int) -> None:
        block, q, h, s, b = (
            word(step, SOURCE),
            word(step, RUNS),
            word(step, RUNS + 1),
            word(step, RUNS + 2),
            word(step, RUNS + 3),
        )
        for i in range(word(step, UNITS)):
            pack_block(t, block + size * i, q + q_size * i, h + h_size * i, s + s_size * i, b + b_size * i)

    return impl


@kernel(None)
def pack_rows(t: int, header: int, size: int, q_size: int) -> Any:
    """Rows of WIDE blocks with a scale in front of each; a unit is a row."""

    def impl(step: int, run: int, ith: int, nth: int) -> None:
        row, n, q, f = word(step, SOURCE), word(step, WIDE), word(step, RUNS), word(step, RUNS + 4)
        for _ in range(word(step, UNITS)):
            put(f, row_scale(t, row), F32)
            row += header
            for _ in range(n):
                pack_block(t, row, q, 0, 0, 0)
                row += size
                q += q_size
            f += 4

    return impl


@kernel(None)
def pack_tiles(t: int, header: int, size: int) -> Any:
    """Rows of WIDE blocks of 64 → tiles of w2a8.cu: 16 rows, which are a unit, × 128 columns; a float for each row."""

    def impl(step: int, run: int, ith: int, nth: int) -> None:
        first, n, out, f = word(step, SOURCE), word(step, WIDE), word(step, RUNS), word(step, RUNS + 1)
        row_bytes, end = header + n * size, word(step, SOURCE) + word(step, LEFT)
        for _ in range(word(step, UNITS)):
            for r in range(16):
                if first + r * row_bytes < end:
                    put(f + 4 * r, row_scale(t, first + r * row_bytes), F32)
            for c in range(0, n, 2):
                for r in range(8):
                    upper, lower = first + r * row_bytes, first + (r + 8) * row_bytes
                    left = interleave(tile_words(t, upper, c, n, end), tile_words(t, lower, c, n, end), 4)
                    right = interleave(
                        tile_words(t, upper, c + 1, n, end), tile_words(t, lower, c + 1, n, end), 4
                    )
                    store(out, interleave(left, right, 8), I8)
                    out += 64
            first += 16 * row_bytes
            f += 64

    return impl


def tile_words(kind: int, row: int, i: int, n: int, end: int) -> Any:
    """Four words of a row's i-th block; of zeros behind its n blocks and for rows behind the last. For kernels."""


@by_literal(tile_words)
def _(t: int) -> Any:
    type = FORMS[t].type
    header, size = type.row_header, type.nbytes

    def impl(kind: int, row: int, i: int, n: int, end: int) -> Any:
        if row < end and i < n:
            return crumbs(codes64(t, row + header + size * i, 0))
        return splat_i8(ONES, 16)

    return impl


@kernel(None)
def pad_rows() -> Any:
    """Rows of WIDE bytes → as many whole 16 bytes, zeros behind; a unit is a row."""

    def impl(step: int, run: int, ith: int, nth: int) -> None:
        source, n, out = word(step, SOURCE), word(step, WIDE), word(step, RUNS)
        for _ in range(word(step, UNITS)):
            whole = n // 64 * 64
            for i in range(0, whole, 64):
                store(out + i, load(source + i, I8, 64), I8)
            for i in range(whole, n):
                put(out + i, get(source + i, U8), I8)
            for i in range(n, (n + 15) // 16 * 16):
                put(out + i, 0, I8)
            source += n
            out += (n + 15) // 16 * 16

    return impl
