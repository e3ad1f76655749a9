"""Dot products of four unsigned by four signed bytes, exact in int32: one instruction where there is one.

Signed bytes are activations from -127 to 127. AVX2 and AVX-512 without VNNI add products of bytes in 16 bits, by pairs:
codes below 128 (u7) take fewer instructions there, small codes are summed up as pairs for a while (`pair_fours`), and
codes around 128 lend their sign to the activations.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core.types.containers import UniTuple
from numba.extending import intrinsic

from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.vector import (
    I8_T,
    I16_T,
    I32_T,
    Vec,
    by_row,
    call,
    const_vec,
    in_pieces,
    joined,
)

MOST_I16 = 32767


def adds_pairs() -> bool:
    """Whether the target multiplies bytes by an instruction that adds two products in 16 bits, and by no better one."""
    return target.has("avx2") and not target.has("avx512vnni") and not target.has_vnni_256()


def pair_fours(most: int) -> int:
    """How many dot products of codes up to `most` are summed in 16 bits before `whole`: a power of two, or 0."""
    fours = MOST_I16 // (2 * 127 * most)
    return 1 << fours.bit_length() - 1 if adds_pairs() and fours > 1 else 0


def dot_raw(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value, *, u7: bool = False) -> ir.Value:
    """acc[i] + Σ_j u[4i + j] · s[4i + j]; with 16-bit acc the two sums of two j that `whole` makes one of."""
    bits = 8 * u.type.count
    if acc.type.element == I16_T:
        return _of_pieces(builder, _add_pairs, u.type.count // target.register_bytes(), acc, u, s)
    if (bits == 512 and target.has("avx512vnni")) or (bits == 256 and target.has_vnni_256()):
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", acc.type, [acc, u, s])
    for feature, size, dot in (
        ("avx512bw", 512, _maddubs_u7 if u7 else _maddubs),
        ("avx2", 256, _vnni_256 if target.has_vnni_256() else _maddubs_u7 if u7 else _maddubs),
        ("i8mm", 128, _usdot),
        ("dotprod", 128, _sdot_twice),
    ):
        if bits >= size and target.has(feature):
            return _of_pieces(builder, dot, bits // size, acc, u, s)
    return _dot_generic(builder, acc, u, s)


def _of_pieces(
    builder: ir.IRBuilder, fn: Callable[..., ir.Value], count: int, *vectors: ir.Value
) -> ir.Value:
    """fn of so many equal pieces of vectors, as the registers hold them, and the results one after the other."""
    out = [fn(builder, *each) for each in zip(*(in_pieces(builder, v, count) for v in vectors), strict=True)]
    return joined(builder, out)


def _usdot(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    return call(builder, "llvm.aarch64.neon.usdot.v4i32.v16i8", acc.type, [acc, u, s])


def _sdot_twice(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    """u · s = (u - 128) · s + 2 · 64 · s; 128 itself is no signed byte."""
    name, high = "llvm.aarch64.neon.sdot.v4i32.v16i8", ir.Constant(u.type, [-128] * 16)
    acc = call(builder, name, acc.type, [acc, builder.xor(u, high), s])
    for _ in range(2):
        acc = call(builder, name, acc.type, [acc, ir.Constant(u.type, [64] * 16), s])
    return acc


def _vnni_256(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    return call(builder, "llvm.x86.avx512.vpdpbusd.256", acc.type, [acc, u, s])


def _pairs(builder: ir.IRBuilder, u: ir.Value, s: ir.Value) -> ir.Value:
    """Sums of two products of bytes in 16 bits; exact for u up to 128."""
    name = "llvm.x86.avx512.pmaddubs.w.512" if u.type.count == 64 else "llvm.x86.avx2.pmadd.ub.sw"
    return call(builder, name, ir.VectorType(I16_T, u.type.count // 2), [u, s])


def _sum_pairs(builder: ir.IRBuilder, pairs: ir.Value) -> ir.Value:
    return _times(builder, pairs, 1)


def _add_pairs(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    return builder.add(acc, _pairs(builder, u, s))


def _times(builder: ir.IRBuilder, pairs: ir.Value, factor: int) -> ir.Value:
    """Sums of two of them in 32 bits, times a factor."""
    n = pairs.type.count
    name = "llvm.x86.avx512.pmaddw.d.512" if n == 32 else "llvm.x86.avx2.pmadd.wd"
    return call(builder, name, ir.VectorType(I32_T, n // 2), [pairs, const_vec(I16_T, [factor] * n)])


def _maddubs_u7(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    return builder.add(acc, _times(builder, _pairs(builder, u, s), 1))


def _maddubs(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    """u = 2 · (u >> 1) + (u & 1): pairs of products with 8 bits do not fit into 16."""
    n = u.type.count
    half = builder.lshr(u, const_vec(I8_T, [1] * n))
    odd = builder.and_(u, const_vec(I8_T, [1] * n))
    acc = builder.add(acc, _times(builder, _pairs(builder, half, s), 2))
    return builder.add(acc, _times(builder, _pairs(builder, odd, s), 1))


def _signed(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    """acc[i] + Σ_j (u[4i + j] - 128) · s[4i + j]: the size of one factor times the other with its sign."""
    w = builder.xor(u, const_vec(I8_T, [-128] * u.type.count))
    size = builder.select(builder.icmp_signed("<", w, ir.Constant(w.type, None)), builder.neg(w), w)
    signed = call(builder, "llvm.x86.avx2.psign.b", s.type, [s, w])
    return _maddubs_u7(builder, acc, size, signed)


def _dot_generic(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    """acc[i] += Σ_j u[4i + j] · s[4i + j] in plain integer arithmetic."""
    n = u.type.count
    wide = ir.VectorType(I32_T, n)
    product = builder.mul(builder.zext(u, wide), builder.sext(s, wide))
    undef = ir.Constant(wide, ir.Undefined)
    for j in range(4):
        column = builder.shuffle_vector(product, undef, const_vec(I32_T, list(range(j, n, 4))))
        acc = builder.add(acc, column)
    return acc


def _as_intrinsic(u7: bool, doc: str) -> Any:
    def emit(builder: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
        return dot_raw(builder, *values, u7=u7)

    def dot(typingctx: Any, acc: Any, u: Any, s: Any) -> Any:
        if isinstance(acc, UniTuple):
            return by_row((acc, u, s), emit)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, list(args))

        return acc(acc, u, s), codegen

    dot.__doc__ = doc
    return intrinsic(dot)


dot_u8_i8 = _as_intrinsic(
    False, "acc[i] += Σ_j u[4i + j] · s[4i + j], u unsigned and s signed bytes; of tiles, row by row."
)
dot_u7_i8 = _as_intrinsic(True, "The same for u below 128.")


@intrinsic
def dot_i8_i8(typingctx: Any, acc: Any, u: Any, s: Any) -> Any:
    """acc[i] += Σ_j (u[4i + j] - 128) · s[4i + j] of a tile, row by row, where the target adds products by pairs."""

    def emit(builder: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
        return _of_pieces(builder, _signed, u.n // 32, *values)

    return by_row((acc, u, s), emit)


@intrinsic
def whole(typingctx: Any, sums: Any) -> Any:
    """Sums of dot products in 16 bits, two for each, as int32; of tiles, row by row."""
    pairs = sums.dtype if isinstance(sums, UniTuple) else sums
    out = Vec("i32", pairs.n // 2)

    def emit(builder: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
        return _of_pieces(builder, _sum_pairs, 2 * pairs.n // target.register_bytes(), *values)

    return by_row((sums,), emit, out)
