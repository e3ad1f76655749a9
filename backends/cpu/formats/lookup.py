"""Codes of quantised types that take more than shifts: base-3 digits, tables, codebooks, signs, small floats."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.vector import (
    I8_T,
    I16_T,
    I32_T,
    I64_T,
    Vec,
    as_they_are,
    call,
    const_vec,
    in_pieces,
    joined,
    literal,
    widen_half,
)


def _digit(builder: ir.IRBuilder, left: ir.Value) -> ir.Value:
    """floor(3 · left / 256) in each byte"""
    limits = (ir.Constant(left.type, [limit] * left.type.count) for limit in (86, 171))
    reached = [builder.zext(builder.icmp_unsigned(">=", left, limit), left.type) for limit in limits]
    return builder.add(*reached)


@intrinsic
def trits(typingctx: Any, v: Any, power: Any) -> Any:
    """A base-3 digit of each byte taken as a fraction of 256: the digit after those that `power` of 3 shifts out."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _digit(builder, builder.mul(*args))

    return v(v, v), codegen


@intrinsic
def times_3(typingctx: Any, v: Any) -> Any:
    """3 v in each byte, as two sums."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _as_it_is(builder, builder.add(builder.add(args[0], args[0]), args[0]))

    return v(v), codegen


def _as_it_is(builder: ir.IRBuilder, v: ir.Value) -> ir.Value:
    """A value that LLVM looks no further into: it makes 9 v of 3 · 3 v, and no machine multiplies bytes."""
    size = target.register_bytes()
    if size < 32 or v.type.count % size:
        return v
    return joined(builder, as_they_are(builder, in_pieces(builder, v, v.type.count // size)))


def trit_table(name: str, picks: tuple[int, ...], powers: tuple[int, ...]) -> Any:
    """An intrinsic that maps bytes to `trits`: of byte picks[i] with powers[i]."""

    def typed(typingctx: Any, v: Any) -> Any:
        out = Vec("i8", len(picks))

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            undef = ir.Constant(v.llvm, ir.Undefined)
            picked = builder.shuffle_vector(args[0], undef, const_vec(I32_T, list(picks)))
            return _digit(builder, builder.mul(picked, const_vec(I8_T, list(powers))))

        return out(v), codegen

    typed.__name__ = name
    return intrinsic(typed)


_PSHUFB = {
    64: ("avx512bw", "avx512.pshuf.b.512"),
    32: ("avx2", "avx2.pshuf.b"),
    16: ("ssse3", "ssse3.pshuf.b.128"),
}


def table16(name: str, values: tuple[int, ...]) -> Any:
    """An intrinsic that maps bytes 0 to 15 to 16 byte values."""

    def looked_up(builder: ir.IRBuilder, at: ir.Value) -> ir.Value:
        n = at.type.count
        for size, (feature, shuffle) in _PSHUFB.items():
            if size <= n and target.has(feature):
                table = const_vec(I8_T, list(values) * (size // 16))
                pieces = in_pieces(builder, at, n // size)
                return joined(
                    builder, [call(builder, f"llvm.x86.{shuffle}", p.type, [table, p]) for p in pieces]
                )
        out: ir.Value = ir.Constant(at.type, [values[0]] * n)
        for i, value in enumerate(values):
            is_i = builder.icmp_unsigned("==", at, ir.Constant(at.type, [i] * n))
            out = builder.select(is_i, ir.Constant(at.type, [value] * n), out)
        return out

    def typed(typingctx: Any, v: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return looked_up(builder, args[0])

        return v(v), codegen

    typed.__name__ = name
    return intrinsic(typed)


def codebook(name: str, entries: Callable[[], NDArray[np.uint8]]) -> Any:
    """An intrinsic that reads entries of a table of 4 or 8 bytes each, by 16 or 8 indices, as 64 bytes."""

    def global_table(builder: ir.IRBuilder) -> ir.Value:
        table = builder.module.globals.get(name)
        if table is None:
            rows = entries()
            values = [int.from_bytes(row.tobytes(), "little") for row in rows]
            table = cgutils.global_constant(builder, name, const_array(ir.IntType(8 * rows.shape[1]), values))
        return table

    def typed(typingctx: Any, indices: Any) -> Any:
        out = Vec("i8", 64)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return builder.bitcast(_entries(builder, global_table(builder), args[0]), out.llvm)

        return out(indices), codegen

    typed.__name__ = name
    return intrinsic(typed)


def _entries(builder: ir.IRBuilder, table: ir.Value, at: ir.Value) -> ir.Value:
    """table[at[i]] in lane i."""
    width, n = table.type.pointee.element, at.type.count
    out = ir.VectorType(width, n)
    if target.has("avx512f"):
        name = f"llvm.x86.avx512.mask.gather.dp{'i' if width.width == 32 else 'q'}.512"
        base, all_lanes = builder.bitcast(table, I8_T.as_pointer()), const_vec(ir.IntType(1), [1] * n)
        nothing, scale = ir.Constant(out, None), I32_T(width.width // 8)
        return call(builder, name, out, [nothing, base, at, all_lanes, scale])
    v: ir.Value = ir.Constant(out, ir.Undefined)
    for i in range(n):
        place = builder.zext(builder.extract_element(at, I32_T(i)), I64_T)
        one = builder.load(builder.gep(table, [I64_T(0), place], inbounds=True))
        v = builder.insert_element(v, one, I32_T(i))
    return v


def _bits_moved(name: str, instruction: str, spreads: bool) -> Any:
    """An intrinsic of (x, places): bits from the low end to those that are set in `places`, or back."""

    def typed(typingctx: Any, x: Any, places: Any) -> Any:
        mask = literal(places, "places") & (1 << 64) - 1

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            if target.has("bmi2"):
                return call(builder, f"llvm.x86.bmi.{instruction}.64", I64_T, [args[0], I64_T(mask)])
            out: ir.Value = I64_T(0)
            for place, size, before in _runs(mask):
                start, to = (before, place) if spreads else (place, before)
                field = builder.and_(builder.lshr(args[0], I64_T(start)), I64_T((1 << size) - 1))
                out = builder.or_(out, builder.shl(field, I64_T(to)))
            return out

        return types.int64(types.int64, places), codegen

    typed.__name__ = name
    return intrinsic(prefer_literal=True)(typed)


deposit = _bits_moved("deposit", "pdep", spreads=True)  # the low bits of x, in order, at the places
extract = _bits_moved(
    "extract", "pext", spreads=False
)  # the bits of x at the places, in order, as its low ones


def _runs(mask: int) -> list[tuple[int, int, int]]:
    """(first bit, number of bits, bits before) of each run of ones."""
    runs, before, at = [], 0, 0
    while mask >> at:
        zeros = (mask >> at & -(mask >> at)).bit_length() - 1
        at += zeros
        size = (~(mask >> at) & (mask >> at) + 1).bit_length() - 1
        runs.append((at, size, before))
        before, at = before + size, at + size
    return runs


@intrinsic(prefer_literal=True)
def add_where(typingctx: Any, v: Any, bits: Any, amount: Any) -> Any:
    """v + amount in each of 64 bytes whose bit is set."""
    by = literal(amount, "amount")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        chosen = builder.bitcast(args[1], ir.VectorType(ir.IntType(1), 64))
        return builder.select(chosen, builder.add(args[0], ir.Constant(v.llvm, [by] * 64)), args[0])

    return v(v, types.int64, amount), codegen


def const_array(elem: ir.Type, values: list[int]) -> ir.Constant:
    """A constant of LLVM from a list of integers."""
    return ir.Constant(ir.ArrayType(elem, len(values)), values)


@intrinsic(prefer_literal=True)
def with_signs(typingctx: Any, v: Any, bits: Any, offset: Any) -> Any:
    """offset + v in each of 64 bytes, or offset - v where its bit is set."""
    base = literal(offset, "offset")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        signs = builder.bitcast(args[1], ir.VectorType(ir.IntType(1), 64))
        middle = ir.Constant(v.llvm, [base] * 64)
        return builder.select(signs, builder.sub(middle, args[0]), builder.add(middle, args[0]))

    return v(v, types.int64, offset), codegen


@intrinsic
def half_value(typingctx: Any, bits: Any) -> Any:
    """The F16 value of the low 16 bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        one = ir.VectorType(I16_T, 1)
        v = builder.insert_element(ir.Constant(one, ir.Undefined), builder.trunc(args[0], I16_T), I32_T(0))
        return builder.extract_element(widen_half(builder, v), I32_T(0))

    return types.float32(types.int64), codegen


@intrinsic
def e4m3(typingctx: Any, v: Any) -> Any:
    """Half of what unsigned E4M3 bytes mean, as f32; 0x7F is no number and read as 0."""
    out = Vec("f32", v.n)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.VectorType(I32_T, v.n)

        def c(x: int) -> ir.Constant:
            return ir.Constant(wide, [x] * v.n)

        x = builder.zext(args[0], wide)
        x = builder.select(builder.icmp_unsigned("==", x, c(0x7F)), c(0), x)
        # Exponent and fraction are where F32 has them; what is missing is the difference of the biases, 127 - 7.
        bits = builder.shl(builder.and_(x, c(0x7F)), c(20))
        return builder.fmul(builder.bitcast(bits, out.llvm), ir.Constant(out.llvm, [2.0**119] * v.n))

    return out(v), codegen
