"""SIMD on integers: codes of quantised blocks, and the 8-bit dot product with its generic twin."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from graphsched.backends.cpu.language.vector import (
    I8_T,
    I16_T,
    I32_T,
    I64_T,
    Vec,
    const_vec,
    lanes,
    literal,
    load_raw,
    widen_half,
)


@intrinsic
def nibbles(typingctx: Any, v: Any, half: Any) -> Any:
    """The low (half = 0) or high (half = 1) four bits of each byte, 0 to 15."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        shift = builder.mul(builder.trunc(args[1], I8_T), I8_T(4))
        return builder.and_(
            builder.lshr(args[0], lanes(shift, v.n, builder)), ir.Constant(v.llvm, [15] * v.n)
        )

    return v(v, types.int64), codegen


@intrinsic(prefer_literal=True)
def nibbles_by_run(typingctx: Any, v: Any, run: Any) -> Any:
    """The low four bits of a run of so many bytes, the high ones of the next, and so on: 0 to 15 in each byte."""
    n = literal(run, "run")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = ir.VectorType(I32_T, v.n // 4)  # machines shift words by lane, and no bytes
        by = const_vec(I32_T, [4 * (4 * i // n % 2) for i in range(v.n // 4)])
        shifted = builder.lshr(builder.bitcast(args[0], words), by)
        return builder.and_(builder.bitcast(shifted, v.llvm), ir.Constant(v.llvm, [15] * v.n))

    return v(v, run), codegen


@intrinsic(prefer_literal=True)
def bit_field(typingctx: Any, v: Any, shift: Any, mask: Any) -> Any:
    """(v >> shift) & mask in each byte, 0 <= shift < 8."""
    bits = literal(mask, "mask")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        by = lanes(builder.trunc(args[1], I8_T), v.n, builder)
        return builder.and_(builder.lshr(args[0], by), ir.Constant(v.llvm, [bits] * v.n))

    return v(v, types.int64, mask), codegen


@intrinsic(prefer_literal=True)
def shift_left(typingctx: Any, v: Any, by: Any) -> Any:
    """v << by in each byte."""
    shift = literal(by, "by")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.shl(args[0], ir.Constant(v.llvm, [shift] * v.n))

    return v(v, by), codegen


@intrinsic
def spread_bits(typingctx: Any, x: Any) -> Any:
    """The low 32 bits of x as bytes 0 or 1, lowest first."""
    out = Vec("i8", 32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(builder.trunc(args[0], I32_T), ir.VectorType(ir.IntType(1), 32))
        return builder.zext(bits, out.llvm)

    return out(types.int64), codegen


@intrinsic
def as_bytes(typingctx: Any, x: Any) -> Any:
    """The 8 bytes of an integer, lowest first."""
    out = Vec("i8", 8)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], out.llvm)

    return out(types.int64), codegen


@intrinsic
def lane(typingctx: Any, v: Any, i: Any) -> Any:
    """The i-th f32 lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(args[0], builder.trunc(args[1], I32_T))

    return types.float32(v, types.int64), codegen


@intrinsic(prefer_literal=True)
def half_lanes(typingctx: Any, v: Any, half: Any) -> Any:
    """The first (half = 0) or second (half = 1) half of the lanes."""
    out, first = Vec(v.elem, v.n // 2), literal(half, "half") * v.n // 2

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        picks = const_vec(I32_T, list(range(first, first + out.n)))
        return builder.shuffle_vector(args[0], ir.Constant(v.llvm, ir.Undefined), picks)

    return out(v, half), codegen


@intrinsic(prefer_literal=True)
def spread_lanes(typingctx: Any, v: Any, first: Any, times: Any, n: Any) -> Any:
    """n lanes: v's lanes from `first` on, each so many times."""
    start, each = literal(first, "first"), literal(times, "times")
    out = Vec(v.elem, literal(n, "n"))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        picks = const_vec(I32_T, [start + i // each for i in range(out.n)])
        return builder.shuffle_vector(args[0], ir.Constant(v.llvm, ir.Undefined), picks)

    return out(v, first, times, n), codegen


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
        return builder.bitcast(lanes(load_raw(builder, args[0], I32_T), 16, builder), out.llvm)

    return out(types.int64), codegen


@intrinsic(prefer_literal=True)
def gather_f16(typingctx: Any, addr: Any, stride: Any, n: Any) -> Any:
    """n F16 values `stride` bytes apart, as f32."""
    step, count = literal(stride, "stride"), literal(n, "n")
    out = Vec("f32", count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits: ir.Value = ir.Constant(ir.VectorType(I16_T, count), ir.Undefined)
        for i in range(count):
            one = load_raw(builder, builder.add(args[0], I64_T(i * step)), I16_T)
            bits = builder.insert_element(bits, one, I32_T(i))
        return widen_half(builder, bits)

    return out(types.int64, stride, n), codegen


@intrinsic(prefer_literal=True)
def gather_u8(typingctx: Any, addr: Any, stride: Any, n: Any) -> Any:
    """n unsigned bytes `stride` apart, as i32."""
    step, count = literal(stride, "stride"), literal(n, "n")
    out = Vec("i32", count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v: ir.Value = ir.Constant(ir.VectorType(I8_T, count), ir.Undefined)
        for i in range(count):
            one = load_raw(builder, builder.add(args[0], I64_T(i * step)), I8_T)
            v = builder.insert_element(v, one, I32_T(i))
        return builder.zext(v, out.llvm)

    return out(types.int64, stride, n), codegen


@intrinsic
def unsigned(typingctx: Any, v: Any) -> Any:
    """Bytes 0 to 255 as i32 lanes."""
    out = Vec("i32", v.n)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(args[0], out.llvm)

    return out(v), codegen


@intrinsic
def unsigned_pairs(typingctx: Any, v: Any) -> Any:
    """Pairs of bytes as i32 lanes 0 to 65535, the lower byte first."""
    out = Vec("i32", v.n // 2)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(args[0], ir.VectorType(I16_T, out.n)), out.llvm)

    return out(v), codegen


@intrinsic
def half_exp2(typingctx: Any, e: Any) -> Any:
    """2^(e - 128) in f32 lanes for i32 lanes 0 to 255: half of what an E8M0 byte means."""
    out = Vec("f32", e.n)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def c(x: int) -> ir.Constant:
            return ir.Constant(e.llvm, [x] * e.n)

        normal = builder.shl(builder.sub(args[0], c(1)), c(23))
        subnormal = builder.select(builder.icmp_signed("<", args[0], c(1)), c(0x00200000), c(0x00400000))
        bits = builder.select(builder.icmp_signed("<", args[0], c(2)), subnormal, normal)
        return builder.bitcast(bits, out.llvm)

    return out(e), codegen


@intrinsic
def halves(typingctx: Any, a: Any, b: Any) -> Any:
    """a in the first 8 of 16 lanes, b in the last 8."""
    out = Vec("f32", 16)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        two = [lanes(x, 8, builder) for x in args]
        return builder.shuffle_vector(*two, const_vec(I32_T, list(range(16))))

    return out(types.float32, types.float32), codegen


@intrinsic(prefer_literal=True)
def interleave(typingctx: Any, a: Any, b: Any, run: Any) -> Any:
    """So many lanes of a, as many of b, and so on."""
    out, n = Vec(a.elem, 2 * a.n), literal(run, "run")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        order = [i // (2 * n) * n + i % n + (a.n if i % (2 * n) >= n else 0) for i in range(out.n)]
        return builder.shuffle_vector(args[0], args[1], const_vec(I32_T, order))

    return out(a, a, run), codegen


@intrinsic(prefer_literal=True)
def every(typingctx: Any, v: Any, first: Any, step: Any) -> Any:
    """Lanes first, first + step, ..."""
    start, by = literal(first, "first"), literal(step, "step")
    out = Vec(v.elem, v.n // by)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        picks = const_vec(I32_T, list(range(start, v.n, by)))
        return builder.shuffle_vector(args[0], ir.Constant(v.llvm, ir.Undefined), picks)

    return out(v, first, step), codegen


@intrinsic(prefer_literal=True)
def merge_bits(typingctx: Any, v: Any, run: Any, by: Any) -> Any:
    """Every second run of `run` bytes of v, with the run behind it ORed in `by` bits higher: half as many bytes."""
    n, shift, out = literal(run, "run"), literal(by, "by"), Vec("i8", v.n // 2)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        undef, even = ir.Constant(v.llvm, ir.Undefined), [i // n * 2 * n + i % n for i in range(out.n)]
        low = builder.shuffle_vector(args[0], undef, const_vec(I32_T, even))
        high = builder.shuffle_vector(args[0], undef, const_vec(I32_T, [i + n for i in even]))
        return builder.or_(low, builder.shl(high, ir.Constant(out.llvm, [shift] * out.n)))

    return out(v, run, by), codegen
