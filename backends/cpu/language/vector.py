"""SIMD types of Numba over LLVM's vectors, and the pieces of LLVM IR that the intrinsics are made of.

Vectors wider than the machine's registers are split by LLVM, so every kernel is correct on every target;
what needs a special instruction has a generic twin beside it (chosen by `target.has`).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.core.types.containers import UniTuple
from numba.extending import models, register_model

from graphsched.backends.cpu.language import target

# Element kinds that `load` and `store` know, by GGML type id; U8 has no GGML id.
F32, F16, I8, I32, BF16, U8 = 0, 1, 24, 26, 30, 100
ELEMENTS = {F32: "f32", F16: "f32", BF16: "f32", I8: "i8", U8: "i8", I32: "i32"}

I8_T, I16_T, I32_T, I64_T = (ir.IntType(n) for n in (8, 16, 32, 64))
F32_T, F64_T, HALF_T = ir.FloatType(), ir.DoubleType(), ir.HalfType()
LLVM = {"f32": F32_T, "i8": I8_T, "i16": I16_T, "i32": I32_T}


class Vec(types.Type):
    """A SIMD value: `n` lanes of f32, i32, i16 or i8."""

    def __init__(self, elem: str, n: int) -> None:
        self.elem, self.n = elem, n
        super().__init__(name=f"vec<{n} x {elem}>")

    @property
    def nbytes(self) -> int:
        """Bytes of all lanes."""
        return self.n * {"i8": 1, "i16": 2}.get(self.elem, 4)

    @property
    def llvm(self) -> ir.VectorType:
        """The LLVM type of these lanes."""
        return ir.VectorType(LLVM[self.elem], self.n)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def lanes(x: ir.Constant | ir.Value, n: int, builder: ir.IRBuilder) -> ir.Value:
    """The scalar x in all n lanes."""
    vec = ir.VectorType(x.type, n)
    one = builder.insert_element(ir.Constant(vec, ir.Undefined), x, I32_T(0))
    return builder.shuffle_vector(
        one, ir.Constant(vec, ir.Undefined), ir.Constant(ir.VectorType(I32_T, n), None)
    )


def const_vec(elem: ir.Type, values: list[int]) -> ir.Constant:
    """A constant vector of these numbers."""
    return ir.Constant(ir.VectorType(elem, len(values)), values)


def pointer(builder: ir.IRBuilder, addr: ir.Value, to: ir.Type) -> ir.Value:
    """An address as a pointer to a type."""
    return builder.inttoptr(addr, to.as_pointer())


def load_raw(builder: ir.IRBuilder, addr: ir.Value, ty: ir.Type) -> ir.Value:
    """Loads a value from any address, aligned or not."""
    inst = builder.load(pointer(builder, addr, ty))
    inst.align = 1
    return inst


def store_raw(builder: ir.IRBuilder, addr: ir.Value, value: ir.Value) -> None:
    """Stores a value at any address, aligned or not."""
    builder.store(value, pointer(builder, addr, value.type)).align = 1


def call(builder: ir.IRBuilder, name: str, ret: ir.Type, args: list[ir.Value]) -> ir.Value:
    """A call of an LLVM intrinsic or a C function by name."""
    fn = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ret, [a.type for a in args]), name)
    return builder.call(fn, args)


def widen_half(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """<n x i16> F16 bits -> <n x float>. Without F16C `fpext half` calls a library routine that may be absent."""
    n = bits.type.count
    if target.has("f16c"):
        return builder.fpext(builder.bitcast(bits, ir.VectorType(HALF_T, n)), ir.VectorType(F32_T, n))
    wide = ir.VectorType(I32_T, n)

    def c(v: int) -> ir.Constant:
        return ir.Constant(wide, [v] * n)

    w = builder.zext(bits, wide)
    sign = builder.shl(builder.and_(w, c(0x8000)), c(16))
    body = builder.shl(builder.and_(w, c(0x7FFF)), c(13))
    # Scaling by 2^112 moves the exponent's bias and normalises subnormals; all-ones exponents are set by hand.
    scaled = builder.fmul(
        builder.bitcast(body, ir.VectorType(F32_T, n)), ir.Constant(ir.VectorType(F32_T, n), [2.0**112] * n)
    )
    special = builder.icmp_unsigned(">=", body, c(0x7C00 << 13))
    finite = builder.bitcast(scaled, wide)
    merged = builder.select(special, builder.or_(body, c(0x7F800000)), finite)
    return builder.bitcast(builder.or_(merged, sign), ir.VectorType(F32_T, n))


def narrow_half(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """<n x float> -> <n x i16> F16 bits, round to nearest even."""
    n = value.type.count
    short = ir.VectorType(I16_T, n)
    if target.has("f16c"):
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(HALF_T, n)), short)
    wide, flt = ir.VectorType(I32_T, n), ir.VectorType(F32_T, n)

    def c(v: int) -> ir.Constant:
        return ir.Constant(wide, [v] * n)

    bits = builder.bitcast(value, wide)
    sign = builder.lshr(builder.and_(bits, c(0x80000000)), c(16))
    mag = builder.and_(bits, c(0x7FFFFFFF))
    # Normal numbers: rebias and round on the integer; carries ripple into the exponent as they should.
    odd = builder.and_(builder.lshr(mag, c(13)), c(1))
    normal = builder.lshr(builder.add(builder.add(mag, c(0xC8000FFF)), odd), c(13))
    # Subnormal results: adding 0.5 lines the mantissa up with F16's and rounds to nearest even in hardware.
    tiny = builder.sub(
        builder.bitcast(builder.fadd(builder.bitcast(mag, flt), ir.Constant(flt, [0.5] * n)), wide),
        c(0x3F000000),
    )
    out = builder.select(builder.icmp_unsigned("<", mag, c(0x38800000)), tiny, normal)
    out = builder.select(builder.icmp_unsigned(">=", mag, c(0x477FF000)), c(0x7C00), out)
    out = builder.select(builder.icmp_unsigned(">", mag, c(0x7F800000)), c(0x7E00), out)
    return builder.trunc(builder.or_(out, sign), short)


def widen_bf16(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """<n x i16> BF16 bits -> <n x float>."""
    n = bits.type.count
    wide = ir.VectorType(I32_T, n)
    return builder.bitcast(
        builder.shl(builder.zext(bits, wide), ir.Constant(wide, [16] * n)), ir.VectorType(F32_T, n)
    )


def narrow_bf16(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """<n x float> -> <n x i16> BF16 bits, round to nearest even; NaN stays one."""
    n = value.type.count
    wide = ir.VectorType(I32_T, n)

    def c(v: int) -> ir.Constant:
        return ir.Constant(wide, [v] * n)

    bits = builder.bitcast(value, wide)
    odd = builder.and_(builder.lshr(bits, c(16)), c(1))
    rounded = builder.add(builder.add(bits, c(0x7FFF)), odd)
    out = builder.select(builder.fcmp_unordered("uno", value, value), builder.or_(bits, c(0x400000)), rounded)
    return builder.trunc(builder.lshr(out, c(16)), ir.VectorType(I16_T, n))


def narrowed(builder: ir.IRBuilder, value: ir.Value, kind: int) -> ir.Value:
    """Floats as F16 or BF16 bits; lanes for other kinds as they are."""
    if kind == F16:
        return narrow_half(builder, value)
    return narrow_bf16(builder, value) if kind == BF16 else value


def widened(builder: ir.IRBuilder, raw: ir.Value, kind: int) -> ir.Value:
    """F16 and BF16 bits as float; lanes of other kinds as they are."""
    if kind == F16:
        return widen_half(builder, raw)
    return widen_bf16(builder, raw) if kind == BF16 else raw


def load_elements(builder: ir.IRBuilder, addr: ir.Value, kind: int, n: int) -> ir.Value:
    """n elements of `kind` at addr; F16 and BF16 arrive as f32."""
    raw = ir.VectorType(I16_T, n) if kind in (F16, BF16) else Vec(ELEMENTS[kind], n).llvm
    return widened(builder, load_raw(builder, addr, raw), kind)


def in_pieces(builder: ir.IRBuilder, v: ir.Value, count: int) -> list[ir.Value]:
    """A vector as so many equal ones."""
    if count == 1:
        return [v]
    n, undef = v.type.count // count, ir.Constant(v.type, ir.Undefined)
    return [
        builder.shuffle_vector(v, undef, const_vec(I32_T, list(range(n * i, n * (i + 1)))))
        for i in range(count)
    ]


def joined(builder: ir.IRBuilder, pieces: list[ir.Value]) -> ir.Value:
    """Equal vectors, a power of two of them, one after the other."""
    while len(pieces) > 1:
        order = const_vec(I32_T, list(range(2 * pieces[0].type.count)))
        pieces = [builder.shuffle_vector(a, b, order) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0]


def as_they_are(builder: ir.IRBuilder, vectors: list[ir.Value]) -> list[ir.Value]:
    """Vectors of at most a register each, in registers at this point: LLVM looks no further into what they are."""
    if not target.is_x86():
        return vectors
    kinds, n = [v.type for v in vectors], len(vectors)
    constraints = ",".join(["=v" if target.has("avx512vl") else "=x"] * n + [str(i) for i in range(n)])
    result = kinds[0] if n == 1 else ir.LiteralStructType(kinds)  # one output is no struct
    out = builder.asm(ir.FunctionType(result, kinds), "", constraints, vectors, side_effect=False)
    return [out] if n == 1 else [builder.extract_value(out, i) for i in range(n)]


def by_row(args: tuple[types.Type, ...], emit: Callable[..., ir.Value], out: Vec | None = None) -> Any:
    """Signature and code of an operation on tiles, row by row; vectors among its operands count for every row.

    A tile is a tuple of equal vectors; `out` is what a row of the result is, if not what a row of the operands is.
    """
    tile = next(a for a in args if isinstance(a, UniTuple))
    result = UniTuple(out or tile.dtype, tile.count)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        rows = []
        for r in range(tile.count):
            pairs = zip(args, values, strict=True)
            row = [builder.extract_value(v, r) if isinstance(a, UniTuple) else v for a, v in pairs]
            rows.append(emit(builder, row))
        return context.make_tuple(builder, result, rows)

    return result(*args), codegen


def literal(x: types.Type, what: str) -> int:
    """The value of an argument that must be a literal; TypingError, which says `what`, if it is not."""
    if not isinstance(x, types.IntegerLiteral):
        raise TypingError(f"{what} must be a literal integer, not {x}")
    return int(x.literal_value)


def fold(builder: ir.IRBuilder, v: ir.Value, combine: Callable[..., ir.Value]) -> ir.Value:
    """Combines halves until one lane is left: a fixed order, the same on every target."""
    while v.type.count > 1:
        half = v.type.count // 2
        undef = ir.Constant(v.type, ir.Undefined)
        low = builder.shuffle_vector(v, undef, const_vec(I32_T, list(range(half))))
        high = builder.shuffle_vector(v, undef, const_vec(I32_T, list(range(half, 2 * half))))
        v = combine(low, high)
    return builder.extract_element(v, I32_T(0))
