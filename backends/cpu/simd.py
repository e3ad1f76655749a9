"""SIMD values in Numba: vector types over LLVM's, and the operations the kernels are written in.

A vector value has the type `Vec(elem, n)`. Operations are intrinsics that emit LLVM IR, so that what a kernel
says is what runs: no auto-vectoriser, no fast-math, fused multiply-add only where a kernel writes `fma`.
Vectors wider than the machine's registers are split by LLVM, so every kernel is correct on every target;
what needs a special instruction has a generic twin beside it (chosen by `target.has`).
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.extending import intrinsic, models, register_model

from graphsched.backends.cpu import target

# Element kinds that `load` and `store` know, by GGML type id; U8 has no GGML id.
F32, F16, I8, I32, BF16, U8 = 0, 1, 24, 26, 30, 100
ELEMENTS = {F32: "f32", F16: "f32", BF16: "f32", I8: "i8", U8: "i8", I32: "i32"}

I8_T, I16_T, I32_T, I64_T = (ir.IntType(n) for n in (8, 16, 32, 64))
F32_T, F64_T, HALF_T = ir.FloatType(), ir.DoubleType(), ir.HalfType()
LLVM = {"f32": F32_T, "i8": I8_T, "i32": I32_T}


class Vec(types.Type):
    """A SIMD value: `n` lanes of f32, i32 or i8."""

    def __init__(self, elem: str, n: int) -> None:
        self.elem, self.n = elem, n
        super().__init__(name=f"vec<{n} x {elem}>")

    @property
    def llvm(self) -> ir.VectorType:
        return ir.VectorType(LLVM[self.elem], self.n)


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vec) -> None:
        super().__init__(dmm, fe_type, fe_type.llvm)


def _lanes(x: ir.Constant | ir.Value, n: int, builder: ir.IRBuilder) -> ir.Value:
    """The scalar x in all n lanes."""
    vec = ir.VectorType(x.type, n)
    one = builder.insert_element(ir.Constant(vec, ir.Undefined), x, I32_T(0))
    return builder.shuffle_vector(one, ir.Constant(vec, ir.Undefined), ir.Constant(ir.VectorType(I32_T, n), None))


def const_vec(elem: ir.Type, values: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(elem, len(values)), values)


def pointer(builder: ir.IRBuilder, addr: ir.Value, to: ir.Type) -> ir.Value:
    return builder.inttoptr(addr, to.as_pointer())


def load_raw(builder: ir.IRBuilder, addr: ir.Value, ty: ir.Type) -> ir.Value:
    inst = builder.load(pointer(builder, addr, ty))
    inst.align = 1
    return inst


def store_raw(builder: ir.IRBuilder, addr: ir.Value, value: ir.Value) -> None:
    builder.store(value, pointer(builder, addr, value.type)).align = 1


def call(builder: ir.IRBuilder, name: str, ret: ir.Type, args: list[ir.Value]) -> ir.Value:
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
    scaled = builder.fmul(builder.bitcast(body, ir.VectorType(F32_T, n)), ir.Constant(ir.VectorType(F32_T, n), [2.0**112] * n))
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
        builder.bitcast(builder.fadd(builder.bitcast(mag, flt), ir.Constant(flt, [0.5] * n)), wide), c(0x3F000000)
    )
    out = builder.select(builder.icmp_unsigned("<", mag, c(0x38800000)), tiny, normal)
    out = builder.select(builder.icmp_unsigned(">=", mag, c(0x477FF000)), c(0x7C00), out)
    out = builder.select(builder.icmp_unsigned(">", mag, c(0x7F800000)), c(0x7E00), out)
    return builder.trunc(builder.or_(out, sign), short)


def widen_bf16(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    n = bits.type.count
    wide = ir.VectorType(I32_T, n)
    return builder.bitcast(builder.shl(builder.zext(bits, wide), ir.Constant(wide, [16] * n)), ir.VectorType(F32_T, n))


def _literal(x: types.Type, what: str) -> int:
    if not isinstance(x, types.IntegerLiteral):
        raise TypingError(f"{what} must be a literal integer, not {x}")
    return int(x.literal_value)


@intrinsic(prefer_literal=True)
def load(typingctx: Any, addr: Any, kind: Any, n: Any) -> Any:
    """n elements of `kind` at addr; F16 and BF16 arrive as f32."""
    k, lanes = _literal(kind, "kind"), _literal(n, "n")
    out = Vec(ELEMENTS[k], lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if k in (F16, BF16):
            bits = load_raw(builder, args[0], ir.VectorType(I16_T, lanes))
            return widen_half(builder, bits) if k == F16 else widen_bf16(builder, bits)
        return load_raw(builder, args[0], out.llvm)

    return out(types.int64, kind, n), codegen


@intrinsic(prefer_literal=True)
def store(typingctx: Any, addr: Any, value: Any, kind: Any) -> Any:
    """Stores a vector at addr; an f32 vector may be rounded to F16."""
    k = _literal(kind, "kind")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store_raw(builder, args[0], narrow_half(builder, args[1]) if k == F16 else args[1])
        return context.get_dummy_value()

    return types.void(types.int64, value, kind), codegen


@intrinsic(prefer_literal=True)
def get(typingctx: Any, addr: Any, kind: Any) -> Any:
    """One element of `kind` at addr; F16 and BF16 arrive as float32, I8, U8 and I32 as int64."""
    k = _literal(kind, "kind")
    out = types.float32 if ELEMENTS[k] == "f32" else types.int64

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if k in (F16, BF16):
            bits = load_raw(builder, args[0], ir.VectorType(I16_T, 1))
            wide = widen_half(builder, bits) if k == F16 else widen_bf16(builder, bits)
            return builder.extract_element(wide, I32_T(0))
        raw = load_raw(builder, args[0], LLVM[ELEMENTS[k]])
        if out is types.float32:
            return raw
        return builder.zext(raw, I64_T) if k == U8 else builder.sext(raw, I64_T)

    return out(types.int64, kind), codegen


@intrinsic(prefer_literal=True)
def put(typingctx: Any, addr: Any, value: Any, kind: Any) -> Any:
    """Stores one element of `kind` (F32, F16, I8, I32) at addr."""
    k = _literal(kind, "kind")
    arg = types.float32 if ELEMENTS[k] == "f32" else types.int64

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = args[1]
        if k == F16:
            one = builder.insert_element(ir.Constant(ir.VectorType(F32_T, 1), ir.Undefined), value, I32_T(0))
            value = builder.extract_element(narrow_half(builder, one), I32_T(0))
        elif arg is types.int64:
            value = builder.trunc(value, LLVM[ELEMENTS[k]])
        store_raw(builder, args[0], value)
        return context.get_dummy_value()

    return types.void(types.int64, arg, kind), codegen


@intrinsic
def word(typingctx: Any, addr: Any, i: Any) -> Any:
    """The i-th int64 at addr."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_raw(builder, builder.add(args[0], builder.shl(args[1], I64_T(3))), I64_T)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def real(typingctx: Any, addr: Any, i: Any) -> Any:
    """The i-th word at addr, which holds a float64, as float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fptrunc(load_raw(builder, builder.add(args[0], builder.shl(args[1], I64_T(3))), F64_T), F32_T)

    return types.float32(types.int64, types.int64), codegen


@intrinsic
def double(typingctx: Any, addr: Any, i: Any) -> Any:
    """The i-th float64 at addr."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_raw(builder, builder.add(args[0], builder.shl(args[1], I64_T(3))), F64_T)

    return types.float64(types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def splat(typingctx: Any, x: Any, n: Any) -> Any:
    """The float32 x in n lanes."""
    lanes = _literal(n, "n")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _lanes(args[0], lanes, builder)

    return Vec("f32", lanes)(types.float32, n), codegen


@intrinsic(prefer_literal=True)
def splat_i32(typingctx: Any, x: Any, n: Any) -> Any:
    """The integer x in n int32 lanes."""
    lanes = _literal(n, "n")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _lanes(builder.trunc(args[0], I32_T), lanes, builder)

    return Vec("i32", lanes)(types.int64, n), codegen


@intrinsic(prefer_literal=True)
def splat_i8(typingctx: Any, x: Any, n: Any) -> Any:
    """The low byte of x in n int8 lanes."""
    lanes = _literal(n, "n")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _lanes(builder.trunc(args[0], I8_T), lanes, builder)

    return Vec("i8", lanes)(types.int64, n), codegen


def _elementwise(emit: Callable[[ir.IRBuilder, list[ir.Value]], ir.Value], n_args: int, doc: str) -> Any:
    """An intrinsic on n_args equal vectors (or float32 scalars) that returns the same type."""

    def typed(typingctx: Any, *args: Any) -> Any:
        first = args[0]

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            return emit(builder, list(values))

        return first(*([first] * n_args)), codegen

    def one(typingctx: Any, a: Any) -> Any:
        return typed(typingctx, a)

    def two(typingctx: Any, a: Any, b: Any) -> Any:
        return typed(typingctx, a, b)

    def three(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        return typed(typingctx, a, b, c)

    def four(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return typed(typingctx, a, b, c, d)

    made = intrinsic((one, two, three, four)[n_args - 1])
    made.__doc__ = doc
    return made


def _named(name: str) -> Callable[[ir.IRBuilder, list[ir.Value]], ir.Value]:
    """An LLVM intrinsic overloaded on its argument's type, e.g. llvm.fma.v16f32."""

    def emit(builder: ir.IRBuilder, v: list[ir.Value]) -> ir.Value:
        t = v[0].type
        suffix = f"v{t.count}f32" if isinstance(t, ir.VectorType) else "f32"
        return call(builder, f"llvm.{name}.{suffix}", t, v)

    return emit


add = _elementwise(lambda b, v: b.fadd(*v), 2, "a + b in f32 lanes")
sub = _elementwise(lambda b, v: b.fsub(*v), 2, "a - b in f32 lanes")
mul = _elementwise(lambda b, v: b.fmul(*v), 2, "a * b in f32 lanes")
div = _elementwise(lambda b, v: b.fdiv(*v), 2, "a / b in f32 lanes")
fma = _elementwise(_named("fma"), 3, "a * b + c, rounded once")
sqrt = _elementwise(_named("sqrt"), 1, "square root")
absolute = _elementwise(_named("fabs"), 1, "|a|")
nearest = _elementwise(_named("rint"), 1, "a rounded to the nearest integer, ties to even")
maximum = _elementwise(lambda b, v: b.select(b.fcmp_ordered(">", *v), *v), 2, "a > b ? a : b")
minimum = _elementwise(lambda b, v: b.select(b.fcmp_ordered("<", *v), *v), 2, "a < b ? a : b")
where_less = _elementwise(lambda b, v: b.select(b.fcmp_ordered("<", v[0], v[1]), v[2], v[3]), 4, "a < b ? c : d")
add_i32 = _elementwise(lambda b, v: b.add(*v), 2, "a + b in integer lanes")
and_bits = _elementwise(lambda b, v: b.and_(*v), 2, "a & b in integer lanes")
xor_bits = _elementwise(lambda b, v: b.xor(*v), 2, "a ^ b in integer lanes")


@intrinsic
def to_f32(typingctx: Any, v: Any) -> Any:
    """int32 or int8 lanes -> f32 lanes."""
    out = Vec("f32", v.n)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], out.llvm)

    return out(v), codegen


@intrinsic
def to_i8(typingctx: Any, v: Any) -> Any:
    """f32 lanes holding integers in -128..127 -> int8 lanes."""
    out = Vec("i8", v.n)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.trunc(builder.fptosi(args[0], ir.VectorType(I32_T, v.n)), out.llvm)

    return out(v), codegen


@intrinsic
def scale_exp2(typingctx: Any, v: Any, e: Any) -> Any:
    """v * 2^e for f32 lanes e holding integers in -126..127."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        wide = ir.VectorType(I32_T, v.n)
        exponent = builder.add(builder.fptosi(args[1], wide), ir.Constant(wide, [127] * v.n))
        power = builder.bitcast(builder.shl(exponent, ir.Constant(wide, [23] * v.n)), v.llvm)
        return builder.fmul(args[0], power)

    return v(v, v), codegen


def fold(builder: ir.IRBuilder, v: ir.Value, join: Callable[..., ir.Value]) -> ir.Value:
    """Joins halves until one lane is left: a fixed order, the same on every target."""
    while v.type.count > 1:
        half = v.type.count // 2
        undef = ir.Constant(v.type, ir.Undefined)
        low = builder.shuffle_vector(v, undef, const_vec(I32_T, list(range(half))))
        high = builder.shuffle_vector(v, undef, const_vec(I32_T, list(range(half, 2 * half))))
        v = join(low, high)
    return builder.extract_element(v, I32_T(0))


@intrinsic
def sum_lanes(typingctx: Any, v: Any) -> Any:
    """Sum over lanes, by halves; f32 -> float32, integers -> int64."""
    out = types.float32 if v.elem == "f32" else types.int64

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if v.elem == "f32":
            return fold(builder, args[0], builder.fadd)
        wide = args[0] if v.elem == "i32" else builder.sext(args[0], ir.VectorType(I32_T, v.n))
        return builder.sext(fold(builder, wide, builder.add), I64_T)

    return out(v), codegen


@intrinsic
def max_lanes(typingctx: Any, v: Any) -> Any:
    """Largest f32 lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return fold(builder, args[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))

    return types.float32(v), codegen


def _mask(builder: ir.IRBuilder, count: ir.Value, n: int) -> ir.Value:
    """Lanes below count."""
    lanes = const_vec(I64_T, list(range(n)))
    return builder.icmp_signed("<", lanes, _lanes(count, n, builder))


def _masked(builder: ir.IRBuilder, name: str, ret: ir.Type, vec: ir.VectorType, args: list[ir.Value]) -> ir.Value:
    elem = {I8_T: "i8", I16_T: "i16", I32_T: "i32", F32_T: "f32"}[vec.element]
    fn = f"llvm.masked.{name}.v{vec.count}{elem}.p0"
    declared = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ret, [a.type for a in args]), fn)
    return builder.call(declared, args)


@intrinsic(prefer_literal=True)
def load_first(typingctx: Any, addr: Any, kind: Any, n: Any, count: Any) -> Any:
    """The first `count` of n elements of `kind` at addr, zeros after them; touches nothing beyond."""
    k, lanes = _literal(kind, "kind"), _literal(n, "n")
    out = Vec(ELEMENTS[k], lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        raw = ir.VectorType(I16_T, lanes) if k in (F16, BF16) else out.llvm
        zero = ir.Constant(raw, None)
        operands = [pointer(builder, args[0], raw), I32_T(1), _mask(builder, args[3], lanes), zero]
        got = _masked(builder, "load", raw, raw, operands)
        if k in (F16, BF16):
            return widen_half(builder, got) if k == F16 else widen_bf16(builder, got)
        return got

    return out(types.int64, kind, n, types.int64), codegen


@intrinsic(prefer_literal=True)
def store_first(typingctx: Any, addr: Any, value: Any, kind: Any, count: Any) -> Any:
    """Stores the first `count` lanes at addr; an f32 vector may be rounded to F16."""
    k = _literal(kind, "kind")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = narrow_half(builder, args[1]) if k == F16 else args[1]
        operands = [v, pointer(builder, args[0], v.type), I32_T(1), _mask(builder, args[3], v.type.count)]
        _masked(builder, "store", ir.VoidType(), v.type, operands)
        return context.get_dummy_value()

    return types.void(types.int64, value, kind, types.int64), codegen


@intrinsic
def nibbles(typingctx: Any, v: Any, half: Any) -> Any:
    """The low (half = 0) or high (half = 1) four bits of each byte, 0 to 15."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shift = builder.mul(builder.trunc(args[1], I8_T), I8_T(4))
        return builder.and_(builder.lshr(args[0], _lanes(shift, v.n, builder)), ir.Constant(v.llvm, [15] * v.n))

    return v(v, types.int64), codegen


@intrinsic(prefer_literal=True)
def pair_lanes(typingctx: Any, v: Any, j: Any) -> Any:
    """Of 16 lanes: lane 2j in the first 8, lane 2j+1 in the last 8."""
    at = _literal(j, "j")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        picks = const_vec(I32_T, [2 * at] * 8 + [2 * at + 1] * 8)
        return builder.shuffle_vector(args[0], ir.Constant(v.llvm, ir.Undefined), picks)

    return v(v, j), codegen


@intrinsic
def concat(typingctx: Any, a: Any, b: Any) -> Any:
    """a's lanes, then b's."""
    out = Vec(a.elem, 2 * a.n)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shuffle_vector(args[0], args[1], const_vec(I32_T, list(range(2 * a.n))))

    return out(a, a), codegen


@intrinsic
def broadcast4(typingctx: Any, addr: Any) -> Any:
    """The 4 bytes at addr, 16 times: i8 x 64."""
    out = Vec("i8", 64)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(_lanes(load_raw(builder, args[0], I32_T), 16, builder), out.llvm)

    return out(types.int64), codegen


@intrinsic
def scatter4(typingctx: Any, addr: Any, v: Any, stride: Any) -> Any:
    """Stores each 4 bytes of v at addr, addr + stride, ..."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = builder.bitcast(args[1], ir.VectorType(I32_T, v.n // 4))
        at = args[0]
        for i in range(v.n // 4):
            store_raw(builder, at, builder.extract_element(words, I32_T(i)))
            at = builder.add(at, args[2])
        return context.get_dummy_value()

    return types.void(types.int64, v, types.int64), codegen


@intrinsic(prefer_literal=True)
def gather_f16(typingctx: Any, addr: Any, stride: Any, n: Any) -> Any:
    """n F16 values `stride` bytes apart, as f32."""
    step, lanes = _literal(stride, "stride"), _literal(n, "n")
    out = Vec("f32", lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits: ir.Value = ir.Constant(ir.VectorType(I16_T, lanes), ir.Undefined)
        for i in range(lanes):
            one = load_raw(builder, builder.add(args[0], I64_T(i * step)), I16_T)
            bits = builder.insert_element(bits, one, I32_T(i))
        return widen_half(builder, bits)

    return out(types.int64, stride, n), codegen


def _dot_generic(builder: ir.IRBuilder, acc: ir.Value, u: ir.Value, s: ir.Value) -> ir.Value:
    """acc[i] += Σ_j u[4i + j] · s[4i + j] in plain integer arithmetic."""
    n = u.type.count
    wide = ir.VectorType(I32_T, n)
    product = builder.mul(builder.zext(u, wide), builder.sext(s, wide))
    undef = ir.Constant(wide, ir.Undefined)
    for j in range(4):
        part = builder.shuffle_vector(product, undef, const_vec(I32_T, list(range(j, n, 4))))
        acc = builder.add(acc, part)
    return acc


@intrinsic
def dot_u8_i8(typingctx: Any, acc: Any, u: Any, s: Any) -> Any:
    """acc[i] += Σ_j u[4i + j] · s[4i + j], u unsigned and s signed bytes, exact in int32 (VNNI's vpdpbusd)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = 8 * u.n
        if (bits == 512 and target.has("avx512vnni")) or (bits == 256 and target.has_vnni_256()):
            return call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", acc.llvm, list(args))
        return _dot_generic(builder, *args)

    return acc(acc, u, s), codegen


@intrinsic
def interleave16(typingctx: Any, a: Any, b: Any) -> Any:
    """Of 32 bytes each: a[:16], b[:16], a[16:], b[16:]."""
    out = Vec("i8", 64)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        order = [*range(16), *range(32, 48), *range(16, 32), *range(48, 64)]
        return builder.shuffle_vector(args[0], args[1], const_vec(I32_T, order))

    return out(a, a), codegen


@intrinsic
def halves(typingctx: Any, a: Any, b: Any) -> Any:
    """a in the first 8 of 16 lanes, b in the last 8."""
    out = Vec("f32", 16)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        two = [_lanes(x, 8, builder) for x in args]
        return builder.shuffle_vector(*two, const_vec(I32_T, list(range(16))))

    return out(types.float32, types.float32), codegen
