"""Row-interleaved types: the same block of 4 or 8 rows lies together, so that a vector has a lane per row.

Layouts are those of ik_llama.cpp (`layouts.py`). A vector of 64 bytes holds 4 codes of each row and that for 16 / rows
groups of 4 weights; `words` says which groups, as numbers of 4 weights in the block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from graphsched import dtypes
from graphsched.backends.cpu.blocks32 import IQ4_OFFSET, iq4_values
from graphsched.backends.cpu.forms import FORMS, Form
from graphsched.backends.cpu.jit import by_literal
from graphsched.backends.cpu.simd import fma, get, load, mul, splat, to_f32, xor_bits
from graphsched.backends.cpu.simd import splat_i8 as bytes_of
from graphsched.backends.cpu.simd_int import dot_u8_i8, nibbles
from graphsched.backends.cpu.turn import PANEL
from graphsched.backends.cpu.vector import (
    F32,
    I8,
    I8_T,
    I16_T,
    I32,
    I32_T,
    I64_T,
    Vec,
    const_vec,
    literal,
    load_raw,
    store_raw,
    widen_half,
)
from graphsched.dtypes import DType

Words = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class RowForm:
    """A type whose blocks of 32 weights of `type.interleave` rows lie together, half scales first.

    codes: (kind, block, i) -> the i-th 64 unsigned codes. words[i]: for each of the 16 / rows parts of that vector the
    4 weights of a block that it holds.
    """

    type: DType
    plain: DType
    offset: int
    words: Words
    codes: Callable[..., Any]

    @property
    def rows(self) -> int:
        return self.type.interleave

    @property
    def block_bytes(self) -> int:
        return self.rows * self.type.nbytes


ROW_FORMS: dict[int, RowForm] = {}


def no_rows(*_: Any) -> Any:
    raise NotImplementedError("rows of an interleaved type cannot be read one by one")


def declare(name: str, plain: DType, offset: int, words: Words, codes: Callable[..., Any]) -> None:
    type = dtypes.by_name(name)
    ROW_FORMS[type.id] = RowForm(type, plain, offset, words, codes)
    FORMS[type.id] = Form(
        type, no_rows, no_rows, no_rows, no_rows, offset=offset
    )  # what tiles of panels need


def row_codes(kind: int, block: int, i: int) -> Any:
    """The i-th 64 codes of a block of all rows. For kernels."""


@by_literal(row_codes)
def _(kind: int) -> Callable[..., Any]:
    return ROW_FORMS[kind].codes


def _q4_codes(kind: int, block: int, i: int) -> Any:
    return nibbles(load(block + 16 + 64 * (i % 2), I8, 64), i // 2)


def _q8_codes(kind: int, block: int, i: int) -> Any:
    return xor_bits(load(block + 16 + 64 * i, I8, 64), bytes_of(128, 64))


def _iq4_codes(kind: int, block: int, i: int) -> Any:
    return iq4_values(nibbles(load(block + 8, I8, 64), i))


PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7))
declare("Q4_0_R8", dtypes.Q4_0, 8, PAIRS, _q4_codes)
declare("Q8_0_R8", dtypes.Q8_0, 128, PAIRS, _q8_codes)
declare("IQ4_NL_R4", dtypes.IQ4_NL, IQ4_OFFSET, ((0, 4, 1, 5), (2, 6, 3, 7)), _iq4_codes)
ROW_TYPES = tuple(form.type for form in ROW_FORMS.values())


@intrinsic(prefer_literal=True)
def row_activations(typingctx: Any, kind: Any, i: Any, addr: Any) -> Any:
    """What the i-th codes of a block meet: of 32 activations at addr the 4 of each part, once for each row."""
    form, number = ROW_FORMS[literal(kind, "kind")], literal(i, "i")
    out = Vec("i8", 64)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        eight = load_raw(builder, args[2], ir.VectorType(I32_T, 8))
        picks = [w for w in form.words[number] for _ in range(form.rows)]
        undef = ir.Constant(eight.type, ir.Undefined)
        return builder.bitcast(builder.shuffle_vector(eight, undef, const_vec(I32_T, picks)), out.llvm)

    return out(kind, i, types.int64), codegen


@intrinsic(prefer_literal=True)
def start_rows(typingctx: Any, kind: Any, total: Any) -> Any:
    """Accumulators of a block: -offset · Σ q once for each row, so that codes may stay unsigned."""
    form, out = ROW_FORMS[literal(kind, "kind")], Vec("i32", 16)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        less = builder.mul(builder.trunc(args[1], I32_T), I32_T(-form.offset))
        v: ir.Value = ir.Constant(out.llvm, [0] * 16)
        first = builder.insert_element(v, less, I32_T(0))
        return builder.shuffle_vector(
            first, v, const_vec(I32_T, [0 if r < form.rows else 16 for r in range(16)])
        )

    return out(kind, types.int64), codegen


def _row_scales(builder: ir.IRBuilder, form: RowForm, addr: ir.Value) -> ir.Value:
    return widen_half(builder, load_raw(builder, addr, ir.VectorType(I16_T, form.rows)))


@intrinsic(prefer_literal=True)
def row_scales(typingctx: Any, kind: Any, block: Any) -> Any:
    """The scales of a block's rows in the lanes of their codes."""
    form, out = ROW_FORMS[literal(kind, "kind")], Vec("f32", 16)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        s = _row_scales(builder, form, args[1])
        picks = const_vec(I32_T, [r % form.rows for r in range(16)])
        return builder.shuffle_vector(s, ir.Constant(s.type, ir.Undefined), picks)

    return out(kind, types.int64), codegen


@intrinsic(prefer_literal=True)
def store_rows(typingctx: Any, kind: Any, addr: Any, v: Any) -> Any:
    """Adds up the lanes of each row and stores one float32 a row."""
    form = ROW_FORMS[literal(kind, "kind")]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v, n = args[2], 16
        while n > form.rows:
            n //= 2
            undef = ir.Constant(v.type, ir.Undefined)
            low, high = (
                builder.shuffle_vector(v, undef, const_vec(I32_T, list(range(a, a + n)))) for a in (0, n)
            )
            v = builder.fadd(low, high)
        store_raw(builder, args[1], v)
        return context.get_dummy_value()

    return types.void(kind, types.int64, v), codegen


@intrinsic(prefer_literal=True)
def store_codes(typingctx: Any, kind: Any, i: Any, addr: Any, v: Any) -> Any:
    """The i-th 64 codes of a block -> a panel [8 fours][16 rows][4], addr being that of the first of these rows."""
    form, number = ROW_FORMS[literal(kind, "kind")], literal(i, "i")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        size = 4 * form.rows
        undef = ir.Constant(ir.VectorType(I8_T, 64), ir.Undefined)
        for part, w in enumerate(form.words[number]):
            picks = const_vec(I32_T, list(range(size * part, size * (part + 1))))
            piece = builder.shuffle_vector(args[3], undef, picks)
            store_raw(builder, builder.add(args[2], I64_T(4 * PANEL * w)), piece)
        return context.get_dummy_value()

    return types.void(kind, i, types.int64, v), codegen


@intrinsic(prefer_literal=True)
def store_scales(typingctx: Any, kind: Any, addr: Any, block: Any) -> Any:
    """The scales of a block's rows -> float32 at addr."""
    form = ROW_FORMS[literal(kind, "kind")]

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store_raw(builder, args[1], _row_scales(builder, form, args[2]))
        return context.get_dummy_value()

    return types.void(kind, types.int64, types.int64), codegen


def dot_rows(kind: int, w: int, x: int, d: int, isum: int, k: int) -> Any:
    """Σ w[r, i] · x[i] of a group of rows, spread over their lanes; operands as in `dot_row`. For kernels."""


@by_literal(dot_rows)
def _(t: int) -> Callable[..., Any]:
    form = ROW_FORMS[t]
    return _dot_of_4(t, form.block_bytes) if len(form.words) == 4 else _dot_of_2(t, form.block_bytes)


def _dot_of_4(t: int, size: int) -> Callable[..., Any]:
    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> Any:
        acc = splat(0.0, 16)
        for b in range(k // 32):
            block, q = w + size * b, x + 32 * b
            i = start_rows(t, get(isum + 4 * b, I32))
            i = dot_u8_i8(i, row_codes(t, block, 0), row_activations(t, 0, q))
            i = dot_u8_i8(i, row_codes(t, block, 1), row_activations(t, 1, q))
            i = dot_u8_i8(i, row_codes(t, block, 2), row_activations(t, 2, q))
            i = dot_u8_i8(i, row_codes(t, block, 3), row_activations(t, 3, q))
            acc = fma(to_f32(i), mul(row_scales(t, block), splat(get(d + 4 * b, F32), 16)), acc)
        return acc

    return impl


def _dot_of_2(t: int, size: int) -> Callable[..., Any]:
    def impl(kind: int, w: int, x: int, d: int, isum: int, k: int) -> Any:
        acc = splat(0.0, 16)
        for b in range(k // 32):
            block, q = w + size * b, x + 32 * b
            i = start_rows(t, get(isum + 4 * b, I32))
            i = dot_u8_i8(i, row_codes(t, block, 0), row_activations(t, 0, q))
            i = dot_u8_i8(i, row_codes(t, block, 1), row_activations(t, 1, q))
            acc = fma(to_f32(i), mul(row_scales(t, block), splat(get(d + 4 * b, F32), 16)), acc)
        return acc

    return impl


def panel_of_rows(kind: int, w: int, w_row: int, n: int, k: int, panel: int) -> None:
    """n rows at w (of more than 16 the first 16) -> a panel; the last group fills up. For kernels."""


@by_literal(panel_of_rows)
def _(t: int) -> Callable[..., None]:
    form = ROW_FORMS[t]
    group, size, four = form.rows, form.block_bytes, int(len(form.words) == 4)

    def impl(kind: int, w: int, w_row: int, n: int, k: int, panel: int) -> None:
        scale_at = panel + PANEL * k
        for first in range(0, PANEL, group):
            rows = w + min(first, n - group) * w_row
            for b in range(k // 32):
                block, codes = rows + size * b, panel + 512 * b + 4 * first
                store_scales(t, scale_at + 64 * b + 4 * first, block)
                store_codes(t, 0, codes, row_codes(t, block, 0))
                store_codes(t, 1, codes, row_codes(t, block, 1))
                if four:
                    store_codes(t, 2, codes, row_codes(t, block, 2))
                    store_codes(t, 3, codes, row_codes(t, block, 3))

    return impl
