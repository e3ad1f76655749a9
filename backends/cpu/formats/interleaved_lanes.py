"""Lanes of row-interleaved types: activations, scales and sums where the codes of their rows are."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from graphsched.backends.cpu.formats.interleaved import ROW_FORMS, RowForm
from graphsched.backends.cpu.language.transpose import PANEL
from graphsched.backends.cpu.language.vector import (
    I8_T,
    I16_T,
    I32_T,
    I64_T,
    Vec,
    const_vec,
    literal,
    load_raw,
    store_raw,
    widen_half,
)


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
