"""Panels of 16 weight rows, decoded once for all tokens: codes and scales side by side, one row per lane.

A panel is codes [k / 4][4 codes of each row], scales [groups][row], and minima likewise. Rows are decoded 64 codes at a
time into `work` and transposed there; of nibbles the packed bytes are transposed, which is half the work. Panels of
ternary types keep their codes packed: see `panel_ternary`.
"""

from collections.abc import Callable

from graphsched.backends.cpu.formats.blocks32 import scale
from graphsched.backends.cpu.formats.forms import FORMS, Form, codes32, codes64, from_nibbles, minima, scales
from graphsched.backends.cpu.formats.interleaved import ROW_FORMS
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.simd import put, put_word, splat, store, sub, word
from graphsched.backends.cpu.language.simd_int import nibbles
from graphsched.backends.cpu.language.transpose import PANEL, column_f16, columns16, transpose
from graphsched.backends.cpu.language.vector import F32, I8
from graphsched.backends.cpu.matmul.matvec_interleaved import panel_of_rows
from graphsched.backends.cpu.matmul.panel_ternary import crumb_codes, ternary_scales, trit_codes
from graphsched.types import dtypes

_ADDRESSES = 8 * PANEL
_WORK = 64 * PANEL


def panel_bytes(kind: int, k: int) -> int:
    """Scratch per thread: codes of 16 rows, their scales and minima, where the rows are, and room to transpose them."""
    form = FORMS[kind]
    codes = PANEL * k // 4 if form.ternary else PANEL * k
    return codes + PANEL * 4 * form.groups(k) * (1 + form.has_minima) + _ADDRESSES + _WORK


@helper
def transpose_rows(work: int, words: int, dst: int) -> None:
    """So many words of each row in `work` -> dst [word][row]."""
    for i in range(words // 4):
        transpose(work + 16 * i, 64, dst + 256 * i, 64)


def decode_panel(kind: int, w: int, w_row: int, n: int, k: int, panel: int) -> None:
    """n rows at w (of more than 16 the first 16) -> a panel; the last row fills up. For kernels."""


def decode_codes(kind: int, rows: int, k: int, codes: int, work: int) -> None:
    """The codes of the rows whose addresses are at `rows`. For kernels."""


def decode_scales(kind: int, rows: int, k: int, scale_at: int, minimum_at: int, work: int) -> None:
    """Their scales and minima. For kernels."""


@by_literal(decode_panel)
def _(t: int) -> Callable[..., None]:
    if t in ROW_FORMS:
        return _panel_of_rows(t)
    form = FORMS[t]
    group, has_minima, per_byte = form.group, int(form.has_minima), 4 if form.ternary else 1

    def impl(kind: int, w: int, w_row: int, n: int, k: int, panel: int) -> None:
        scale_at, groups = panel + PANEL * k // per_byte, k // group if group else 1
        minimum_at = scale_at + 4 * PANEL * groups
        rows = minimum_at + has_minima * 4 * PANEL * groups
        for r in range(PANEL):
            put_word(rows + 8 * r, w + min(r, n - 1) * w_row)
        decode_codes(t, rows, k, panel, rows + _ADDRESSES)
        decode_scales(t, rows, k, scale_at, minimum_at, rows + _ADDRESSES)

    return impl


def _panel_of_rows(t: int) -> Callable[..., None]:
    def impl(kind: int, w: int, w_row: int, n: int, k: int, panel: int) -> None:
        panel_of_rows(t, w, w_row, n, k, panel)

    return impl


@by_literal(decode_codes)
def _(t: int) -> Callable[..., None]:
    form = FORMS[t]
    if form.ternary:
        return trit_codes(form) if form.ternary.has_trits else crumb_codes(form)
    return _nibble_codes(form, *form.nibbles) if form.nibbles else _row_codes(form)


def _nibble_codes(form: Form, first: int, run: int) -> Callable[..., None]:
    """Runs of `run` bytes: low nibbles are `run` weights, high ones the next."""
    t, size, block = form.type.id, form.type.nbytes, form.type.block

    def impl(kind: int, rows: int, k: int, codes: int, work: int) -> None:
        for b in range(k // block):
            for i in range(block // 32):
                v0, v1, v2, v3 = columns16(rows, size * b + first + 16 * i)
                low = codes + PANEL * (block * b + i * 16 // run * 2 * run + i * 16 % run)
                high = low + PANEL * run
                store(low, from_nibbles(t, nibbles(v0, 0)), I8)
                store(low + 64, from_nibbles(t, nibbles(v1, 0)), I8)
                store(low + 128, from_nibbles(t, nibbles(v2, 0)), I8)
                store(low + 192, from_nibbles(t, nibbles(v3, 0)), I8)
                store(high, from_nibbles(t, nibbles(v0, 1)), I8)
                store(high + 64, from_nibbles(t, nibbles(v1, 1)), I8)
                store(high + 128, from_nibbles(t, nibbles(v2, 1)), I8)
                store(high + 192, from_nibbles(t, nibbles(v3, 1)), I8)

    return impl


def _row_codes(form: Form) -> Callable[..., None]:
    t, size = form.type.id, form.type.nbytes
    block, per = form.type.block, max(form.type.block // 64, 1)
    step = size * (64 // min(block, 64))  # bytes to the next blocks that have 64 codes
    odd = int(block == 32)

    def impl(kind: int, rows: int, k: int, codes: int, work: int) -> None:
        for b in range(k // (64 * per)):
            for j in range(per):
                for r in range(PANEL):
                    store(work + 64 * r, codes64(t, word(rows, r) + step * b, j), I8)
                transpose_rows(work, 16, codes + 1024 * (per * b + j))
        if odd and k % 64:
            b = k // 32 - 1
            for r in range(PANEL):
                store(work + 64 * r, codes32(t, word(rows, r) + size * b, 0), I8)
            transpose_rows(work, 8, codes + 512 * b)

    return impl


@by_literal(decode_scales)
def _(t: int) -> Callable[..., None]:
    form = FORMS[t]
    if form.type.block == 32:
        return _half_scales(form) if t != dtypes.MXFP4.id else _block_scales(form)
    return ternary_scales(form) if form.ternary else _super_scales(form)


def _half_scales(form: Form) -> Callable[..., None]:
    """A half in front of every block of 32; what is added comes after it."""
    size, has_minima = form.type.nbytes, form.has_minima

    def impl(kind: int, rows: int, k: int, scale_at: int, minimum_at: int, work: int) -> None:
        for b in range(k // 32):
            store(scale_at + 64 * b, column_f16(rows, size * b), F32)
            if has_minima:
                store(minimum_at + 64 * b, sub(splat(0.0, 16), column_f16(rows, size * b + 2)), F32)

    return impl


def _block_scales(form: Form) -> Callable[..., None]:
    t, size = form.type.id, form.type.nbytes

    def impl(kind: int, rows: int, k: int, scale_at: int, minimum_at: int, work: int) -> None:
        for b in range(k // 32):
            for r in range(PANEL):
                put(scale_at + 64 * b + 4 * r, scale(t, word(rows, r) + size * b), F32)

    return impl


def _super_scales(form: Form) -> Callable[..., None]:
    t, size, block, has_minima = form.type.id, form.type.nbytes, form.type.block, form.has_minima
    n = block // form.group

    def impl(kind: int, rows: int, k: int, scale_at: int, minimum_at: int, work: int) -> None:
        for b in range(k // block):
            for r in range(PANEL):
                store(work + 64 * r, scales(t, word(rows, r) + size * b), F32)
            transpose_rows(work, n, scale_at + 64 * n * b)
            if has_minima:
                for r in range(PANEL):
                    at = word(rows, r) + size * b
                    store(work + 64 * r, minima(t, at, scales(t, at)), F32)
                transpose_rows(work, n, minimum_at + 64 * n * b)

    return impl
