"""Panels of ternary types: they keep four codes a byte, [k / 16][row][4 bytes], as `tile_ternary` takes them apart."""

from collections.abc import Callable
from typing import Any

from graphsched.backends.cpu.formats.forms import Form, codes64, scales
from graphsched.backends.cpu.formats.ternary import row_scale
from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import or_bits, put, store, word
from graphsched.backends.cpu.language.simd_int import half_lanes, lane, shift_left
from graphsched.backends.cpu.language.transpose import PANEL, columns16, transpose
from graphsched.backends.cpu.language.vector import F32, I8


def crumb_codes(form: Form) -> Callable[..., None]:
    """Four codes a byte already: words of 16 rows side by side."""
    size, header, block = form.type.nbytes, form.type.row_header, form.type.block

    def impl(kind: int, rows: int, k: int, codes: int, work: int) -> None:
        at = codes
        for b in range(k // block):
            for i in range(block // 64):
                v0, v1, v2, v3 = columns16(rows, header + size * b + 16 * i)
                store(at, v0, I8)
                store(at + 64, v1, I8)
                store(at + 128, v2, I8)
                store(at + 192, v3, I8)
                at += 256

    return impl


@helper
def _packed(codes: Any) -> Any:
    """64 codes in 16 bytes: the first 16 in the lowest two bits."""
    low, high = half_lanes(codes, 0), half_lanes(codes, 1)
    first = or_bits(half_lanes(low, 0), shift_left(half_lanes(low, 1), 2))
    return or_bits(first, or_bits(shift_left(half_lanes(high, 0), 4), shift_left(half_lanes(high, 1), 6)))


def trit_codes(form: Form) -> Callable[..., None]:
    """Digits are worked out and packed anew, 64 at a time."""
    t, size, header, block = form.type.id, form.type.nbytes, form.type.row_header, form.type.block

    def impl(kind: int, rows: int, k: int, codes: int, work: int) -> None:
        for b in range(k // block):
            for j in range(block // 64):
                for r in range(PANEL):
                    store(work + 64 * r, _packed(codes64(t, word(rows, r) + header + size * b, j)), I8)
                transpose(work, 64, codes + 4 * block * b + 256 * j, 64)

    return impl


def ternary_scales(form: Form) -> Callable[..., None]:
    """One for each row, or one for each row's block."""
    t, size, block, by_row = form.type.id, form.type.nbytes, form.type.block, bool(form.type.row_header)

    def of_row(kind: int, rows: int, k: int, scale_at: int, minimum_at: int, work: int) -> None:
        for r in range(PANEL):
            put(scale_at + 4 * r, row_scale(t, word(rows, r)), F32)

    def of_blocks(kind: int, rows: int, k: int, scale_at: int, minimum_at: int, work: int) -> None:
        for b in range(k // block):
            for r in range(PANEL):
                put(scale_at + 64 * b + 4 * r, lane(scales(t, word(rows, r) + size * b), 0), F32)

    return of_row if by_row else of_blocks
