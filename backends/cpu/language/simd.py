"""SIMD values in kernels: loads, stores and arithmetic on f32 lanes, as intrinsics that emit LLVM IR.

What a kernel says is what runs: no auto-vectoriser, no fast-math, fused multiply-add only where a kernel writes `fma`.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.types.containers import UniTuple
from numba.extending import intrinsic

from graphsched.backends.cpu.language.vector import (
    BF16,
    ELEMENTS,
    F16,
    F32_T,
    F64_T,
    I8_T,
    I16_T,
    I32_T,
    I64_T,
    LLVM,
    U8,
    Vec,
    by_row,
    call,
    const_vec,
    fold,
    lanes,
    literal,
    load_elements,
    load_raw,
    narrowed,
    pointer,
    store_raw,
    widen_bf16,
    widen_half,
    widened,
)


@intrinsic(prefer_literal=True)
def load(typingctx: Any, addr: Any, kind: Any, n: Any) -> Any:
    """n elements of `kind` at addr; F16 and BF16 arrive as f32."""
    k, count = literal(kind, "kind"), literal(n, "n")
    out = Vec(ELEMENTS[k], count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_elements(builder, args[0], k, count)

    return out(types.int64, kind, n), codegen


@intrinsic(prefer_literal=True)
def store(typingctx: Any, addr: Any, value: Any, kind: Any) -> Any:
    """Stores a vector at addr; an f32 vector may be rounded to F16 or BF16."""
    k = literal(kind, "kind")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store_raw(builder, args[0], narrowed(builder, args[1], k))
        return context.get_dummy_value()

    return types.void(types.int64, value, kind), codegen


@intrinsic(prefer_literal=True)
def get(typingctx: Any, addr: Any, kind: Any) -> Any:
    """One element of `kind` at addr; F16 and BF16 arrive as float32, I8, U8 and I32 as int64."""
    k = literal(kind, "kind")
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
    """Stores one element of `kind` (F32, F16, BF16, I8, U8, I32) at addr."""
    k = literal(kind, "kind")
    arg = types.float32 if ELEMENTS[k] == "f32" else types.int64

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = args[1]
        if k in (F16, BF16):
            one = builder.insert_element(ir.Constant(ir.VectorType(F32_T, 1), ir.Undefined), value, I32_T(0))
            value = builder.extract_element(narrowed(builder, one, k), I32_T(0))
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
def put_word(typingctx: Any, addr: Any, value: Any) -> Any:
    """Stores an int64."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        store_raw(builder, args[0], args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def double(typingctx: Any, addr: Any, i: Any) -> Any:
    """The i-th float64 at addr."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_raw(builder, builder.add(args[0], builder.shl(args[1], I64_T(3))), F64_T)

    return types.float64(types.int64, types.int64), codegen


@intrinsic(prefer_literal=True)
def splat(typingctx: Any, x: Any, n: Any) -> Any:
    """The float32 x in n lanes."""
    count = literal(n, "n")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return lanes(args[0], count, builder)

    return Vec("f32", count)(types.float32, n), codegen


@intrinsic(prefer_literal=True)
def splat_i32(typingctx: Any, x: Any, n: Any) -> Any:
    """The integer x in n int32 lanes."""
    count = literal(n, "n")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return lanes(builder.trunc(args[0], I32_T), count, builder)

    return Vec("i32", count)(types.int64, n), codegen


@intrinsic(prefer_literal=True)
def splat_i8(typingctx: Any, x: Any, n: Any) -> Any:
    """The low byte of x in n int8 lanes."""
    count = literal(n, "n")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return lanes(builder.trunc(args[0], I8_T), count, builder)

    return Vec("i8", count)(types.int64, n), codegen


def _elementwise(emit: Callable[[ir.IRBuilder, list[ir.Value]], ir.Value], n_args: int, doc: str) -> Any:
    """An intrinsic on n_args equal vectors (or float32 scalars) that returns the same type.

    If some of them are tiles, it works row by row, with the same vectors for each row.
    """

    def typed(typingctx: Any, *args: Any) -> Any:
        first = args[0]
        if any(isinstance(a, UniTuple) for a in args):
            return by_row(args, emit)

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            return emit(builder, list(values))

        return first(*([first] * n_args)), codegen

    # Numba reads the number of arguments from the signature, so *args would not do.
    def one(typingctx: Any, a: Any) -> Any:
        return typed(typingctx, a)

    def two(typingctx: Any, a: Any, b: Any) -> Any:
        return typed(typingctx, a, b)

    def three(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
        return typed(typingctx, a, b, c)

    def four(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        return typed(typingctx, a, b, c, d)

    result = intrinsic((one, two, three, four)[n_args - 1])
    result.__doc__ = doc
    return result


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
where_less = _elementwise(
    lambda b, v: b.select(b.fcmp_ordered("<", v[0], v[1]), v[2], v[3]), 4, "a < b ? c : d"
)
add_i32 = _elementwise(lambda b, v: b.add(*v), 2, "a + b in integer lanes")
mul_i32 = _elementwise(lambda b, v: b.mul(*v), 2, "a * b in integer lanes")
and_bits = _elementwise(lambda b, v: b.and_(*v), 2, "a & b in integer lanes")
or_bits = _elementwise(lambda b, v: b.or_(*v), 2, "a | b in integer lanes")
xor_bits = _elementwise(lambda b, v: b.xor(*v), 2, "a ^ b in integer lanes")


@intrinsic
def to_f32(typingctx: Any, v: Any) -> Any:
    """int32 or int8 lanes -> f32 lanes."""
    lanes_of = v.dtype if isinstance(v, UniTuple) else v
    out = Vec("f32", lanes_of.n)

    def emit(builder: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
        return builder.sitofp(values[0], out.llvm)

    if isinstance(v, UniTuple):
        return by_row((v,), emit, out)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(builder, list(args))

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
    return builder.icmp_signed("<", const_vec(I64_T, list(range(n))), lanes(count, n, builder))


def _masked(
    builder: ir.IRBuilder, name: str, ret: ir.Type, vec: ir.VectorType, args: list[ir.Value]
) -> ir.Value:
    elem = {I8_T: "i8", I16_T: "i16", I32_T: "i32", F32_T: "f32"}[vec.element]
    fn = f"llvm.masked.{name}.v{vec.count}{elem}.p0"
    declared = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ret, [a.type for a in args]), fn
    )
    return builder.call(declared, args)


def masked_load(
    builder: ir.IRBuilder, addr: ir.Value, kind: int, n: int, count: ir.Value, fill: ir.Value | None = None
) -> ir.Value:
    """The first `count` of n elements of `kind` at addr, zeros or the lanes of `fill` after them."""
    raw = ir.VectorType(I16_T, n) if kind in (F16, BF16) else Vec(ELEMENTS[kind], n).llvm
    rest = ir.Constant(raw, None) if fill is None else fill
    operands = [pointer(builder, addr, raw), I32_T(1), _mask(builder, count, n), rest]
    return widened(builder, _masked(builder, "load", raw, raw, operands), kind)


def masked_store(builder: ir.IRBuilder, addr: ir.Value, value: ir.Value, count: ir.Value) -> None:
    """Stores the first `count` lanes."""
    mask = _mask(builder, count, value.type.count)
    operands = [value, pointer(builder, addr, value.type), I32_T(1), mask]
    _masked(builder, "store", ir.VoidType(), value.type, operands)


@intrinsic(prefer_literal=True)
def load_first(typingctx: Any, addr: Any, kind: Any, n: Any, count: Any) -> Any:
    """The first `count` of n elements of `kind` at addr, zeros after them; touches nothing beyond."""
    k, count = literal(kind, "kind"), literal(n, "n")
    out = Vec(ELEMENTS[k], count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return masked_load(builder, args[0], k, count, args[3])

    return out(types.int64, kind, n, types.int64), codegen


@intrinsic(prefer_literal=True)
def store_first(typingctx: Any, addr: Any, value: Any, kind: Any, count: Any) -> Any:
    """Stores the first `count` lanes at addr; an f32 vector may be rounded to F16 or BF16."""
    k = literal(kind, "kind")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = narrowed(builder, args[1], k)
        masked_store(builder, args[0], v, args[3])
        return context.get_dummy_value()

    return types.void(types.int64, value, kind, types.int64), codegen


def add_halves(builder: ir.IRBuilder, a: ir.Value, b: ir.Value | None, group: int) -> ir.Value:
    """Adds the two halves of every group of lanes of a, then of b if it is there: groups half as long, in order."""
    half, n = group // 2, a.type.count * (1 if b is None else 2)
    low = [g * group + i for g in range(n // group) for i in range(half)]
    b = ir.Constant(a.type, ir.Undefined) if b is None else b
    halves = [builder.shuffle_vector(a, b, const_vec(I32_T, [i + shift for i in low])) for shift in (0, half)]
    return builder.fadd(*halves)


def _prefetch(locality: int, doc: str) -> Any:
    def asked(typingctx: Any, addr: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            at = pointer(builder, args[0], I8_T)
            fn = ir.FunctionType(ir.VoidType(), [at.type, *[I32_T] * 3])
            declared = cgutils.get_or_insert_function(builder.module, fn, "llvm.prefetch.p0")
            builder.call(declared, [at, I32_T(0), I32_T(locality), I32_T(1)])
            return context.get_dummy_value()

        return types.void(addr), codegen

    asked.__doc__ = doc
    return intrinsic(asked)


prefetch = _prefetch(2, "Asks for a cache line, to the second level; any address may be named.")
prefetch_near = _prefetch(3, "The same, to the first level.")
