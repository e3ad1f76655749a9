"""Transposing in registers: weights of 16 rows side by side, activations of 8."""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.types.containers import UniTuple
from numba.extending import intrinsic

from graphsched.backends.cpu.language.dot_bytes import dot_raw
from graphsched.backends.cpu.language.vector import (
    I8_T,
    I16_T,
    I32_T,
    I64_T,
    Vec,
    const_vec,
    joined,
    load_raw,
    store_raw,
    widen_half,
)

PANEL = 16  # weight rows decoded together: one per lane


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, order: list[int]) -> ir.Value:
    return builder.shuffle_vector(a, b, const_vec(I32_T, order))


def _in_quarters(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, picks: list[int]) -> ir.Value:
    """The same choice of four lanes in every quarter of 16: 0 to 3 from a, 4 to 7 from b."""
    order = [4 * quarter + p % 4 + 16 * (p // 4) for quarter in range(4) for p in picks]
    return _shuffle(builder, a, b, order)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """16 rows of 4 words as 4 vectors of 16 lanes.

    Row 4 l + j is put into quarter l of the j-th vector, so that shuffles within quarters are enough.
    """
    a, b, c, d = (joined(builder, rows[j::4]) for j in range(4))
    ab, cd = (
        [_in_quarters(builder, *two, p) for p in ([0, 4, 1, 5], [2, 6, 3, 7])] for two in ((a, b), (c, d))
    )
    return [
        _in_quarters(builder, ab[i // 2], cd[i // 2], [[0, 1, 4, 5], [2, 3, 6, 7]][i % 2]) for i in range(4)
    ]


@intrinsic
def columns16(typingctx: Any, rows: Any, offset: Any) -> Any:
    """16 bytes of 16 rows as 4 vectors: the i-th has the i-th 4 bytes of each. The addresses are at `rows`."""
    vec = Vec("i8", 64)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        four = ir.VectorType(I32_T, 4)
        starts = [load_raw(builder, builder.add(args[0], I64_T(8 * r)), I64_T) for r in range(PANEL)]
        out = _transposed(builder, [load_raw(builder, builder.add(at, args[1]), four) for at in starts])
        return context.make_tuple(builder, sig.return_type, [builder.bitcast(v, vec.llvm) for v in out])

    return UniTuple(vec, 4)(types.int64, types.int64), codegen


@intrinsic
def transpose(typingctx: Any, src: Any, stride: Any, dst: Any, apart: Any) -> Any:
    """4 words of 16 rows, `stride` bytes apart at src -> 4 times 16 words, one of each row, `apart` bytes apart."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        four = ir.VectorType(I32_T, 4)
        src, stride, dst, apart = args
        starts = [builder.add(src, builder.mul(stride, I64_T(r))) for r in range(PANEL)]
        for i, v in enumerate(_transposed(builder, [load_raw(builder, at, four) for at in starts])):
            store_raw(builder, builder.add(dst, builder.mul(apart, I64_T(i))), v)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def column_f16(typingctx: Any, rows: Any, offset: Any) -> Any:
    """The F16 value `offset` bytes into each of 16 rows, as f32; the rows' addresses are at `rows`."""
    out = Vec("f32", PANEL)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = ir.Constant(ir.VectorType(I16_T, PANEL), ir.Undefined)
        for r in range(PANEL):
            row = load_raw(builder, builder.add(args[0], I64_T(8 * r)), I64_T)
            one = load_raw(builder, builder.add(row, args[1]), I16_T)
            bits = builder.insert_element(bits, one, I32_T(r))
        return widen_half(builder, bits)

    return out(types.int64, types.int64), codegen


@intrinsic
def transpose8(typingctx: Any, addr: Any) -> Any:
    """8 rows of 32 codes -> [8 fours][8 rows][4], in place; the sums of each row's first 16 codes, and of its last."""
    out = Vec("i32", 8)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = [builder.add(args[0], I64_T(32 * r)) for r in range(8)]
        v = [load_raw(builder, a, out.llvm) for a in at]
        for step in (1, 2, 4):  # swaps bit `step` of the row's number with that of the column's
            for r in (r for r in range(8) if not r & step):
                low = [i if not i & step else i - step + 8 for i in range(8)]
                high = [i + step if not i & step else i + 8 for i in range(8)]
                v[r], v[r + step] = (
                    builder.shuffle_vector(v[r], v[r + step], const_vec(I32_T, picks))
                    for picks in (low, high)
                )
        for a, column in zip(at, v, strict=True):
            store_raw(builder, a, column)
        codes = [builder.bitcast(c, ir.VectorType(I8_T, 32)) for c in v]
        ones = const_vec(I8_T, [1] * 32)
        sums = []
        for half in (codes[:4], codes[4:]):
            total = ir.Constant(out.llvm, [0] * 8)
            for c in half:
                total = dot_raw(builder, total, ones, c, u7=True)
            sums.append(total)
        return context.make_tuple(builder, sig.return_type, sums)

    return UniTuple(out, 2)(types.int64), codegen
