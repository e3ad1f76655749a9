"""Dot products of four unsigned by four signed bytes, exact in int32: one instruction where there is one.

Signed bytes are activations from -127 to 127. Codes below 128 (u7) take fewer instructions on AVX2, whose products of
bytes are added in 16 bits.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core.types.containers import UniTuple
from numba.extending import intrinsic

from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.vector import I8_T, I16_T, I32_T, by_row, call, const_vec


def dot_raw(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value, *, u7: bool = False) -> ir.Value:
    """acc[i] + Σ_j u[4i + j] · s[4i + j]"""
    bits = 8 * u.type.count
    if (bits == 512 and target.has("avx512vnni")) or (bits == 256 and target.has_vnni_256()):
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", acc.type, [acc, u, s])
    for feature, size, dot in (
        ("avx512bw", 512, _maddubs_u7 if u7 else _maddubs),
        ("avx2", 256, _vnni_256 if target.has_vnni_256() else _maddubs_u7 if u7 else _maddubs),
        ("i8mm", 128, _usdot),
        ("dotprod", 128, _sdot_twice),
    ):
        if bits >= size and target.has(feature):
            return _in_pieces(builder, dot, size // 8, acc, u, s)
    return _dot_generic(builder, acc, u, s)


Dot = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]


def _in_pieces(
    builder: ir.IRBuilder, dot: Dot, size: int, acc: ir.Value, u: ir.Value, s: ir.Value
) -> ir.Value:
    """So many bytes at a time, as the registers hold them."""
    if u.type.count == size:
        return dot(builder, acc, u, s)

    def piece(v: ir.Value, i: int, n: int) -> ir.Value:
        picks = const_vec(I32_T, list(range(n * i, n * (i + 1))))
        return builder.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), picks)

    count, words = u.type.count // size, size // 4
    out = [dot(builder, piece(acc, i, words), piece(u, i, size), piece(s, i, size)) for i in range(count)]
    while len(out) > 1:
        order = const_vec(I32_T, list(range(2 * out[0].type.count)))
        out = [builder.shuffle_vector(a, b, order) for a, b in zip(out[::2], out[1::2], strict=True)]
    return out[0]


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
