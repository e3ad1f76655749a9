"""Panels of 16 weight rows: codes and scales of each block side by side, one row per lane."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.types.containers import UniTuple
from numba.extending import intrinsic

from graphsched import dtypes
from graphsched.backends.cpu.blocks32 import scale
from graphsched.backends.cpu.forms import FORMS, codes32
from graphsched.backends.cpu.jit import by_literal
from graphsched.backends.cpu.simd import put, splat_i8, store, xor_bits
from graphsched.backends.cpu.simd_int import nibbles, scatter4
from graphsched.backends.cpu.vector import (
    F32,
    I8,
    I8_T,
    I16_T,
    I32_T,
    Vec,
    const_vec,
    load_raw,
    pointer,
    widen_half,
)

ROWS = 16
Q4_0, Q8_0 = dtypes.Q4_0.id, dtypes.Q8_0.id


def _shuffle(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, order: list[int]) -> ir.Value:
    return builder.shuffle_vector(a, b, const_vec(I32_T, order))


def _join(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Parts of equal length one after another."""
    while len(parts) > 1:
        order = list(range(2 * parts[0].type.count))
        parts = [_shuffle(builder, a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _in_quarters(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, picks: list[int]) -> ir.Value:
    """The same choice of four lanes in every quarter of 16: 0 to 3 from a, 4 to 7 from b."""
    order = [4 * quarter + p % 4 + 16 * (p // 4) for quarter in range(4) for p in picks]
    return _shuffle(builder, a, b, order)


@intrinsic
def transpose16(typingctx: Any, addr: Any, stride: Any) -> Any:
    """16 bytes of 16 rows as 4 vectors: the i-th has the i-th 4 bytes of each row.

    Row 4 l + j is loaded into quarter l of the j-th vector, so that shuffles within quarters are enough.
    """
    vec = Vec("i8", 64)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        four = ir.VectorType(I32_T, 4)
        rows, at = [], args[0]
        for _ in range(ROWS):
            rows.append(load_raw(builder, at, four))
            at = builder.add(at, args[1])
        a, b, c, d = (_join(builder, rows[j::4]) for j in range(4))
        ab, cd = (
            [_in_quarters(builder, *two, p) for p in ([0, 4, 1, 5], [2, 6, 3, 7])] for two in ((a, b), (c, d))
        )
        out = [
            _in_quarters(builder, ab[i // 2], cd[i // 2], [[0, 1, 4, 5], [2, 3, 6, 7]][i % 2])
            for i in range(4)
        ]
        return context.make_tuple(builder, sig.return_type, [builder.bitcast(v, vec.llvm) for v in out])

    return UniTuple(vec, 4)(addr, stride), codegen


@intrinsic
def column_f16(typingctx: Any, addr: Any, stride: Any) -> Any:
    """The F16 value at addr of each of 16 rows, as f32."""
    out = Vec("f32", ROWS)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits, at = ir.Constant(ir.VectorType(I16_T, ROWS), ir.Undefined), args[0]
        for i in range(ROWS):
            bits = builder.insert_element(bits, load_raw(builder, at, I16_T), I32_T(i))
            at = builder.add(at, args[1])
        return widen_half(builder, bits)

    return out(addr, stride), codegen


@intrinsic
def prefetch(typingctx: Any, addr: Any) -> Any:
    """Asks for a cache line, to the second level; any address may be named."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = pointer(builder, args[0], I8_T)
        fn = ir.FunctionType(ir.VoidType(), [at.type, *[I32_T] * 3])
        declared = cgutils.get_or_insert_function(builder.module, fn, "llvm.prefetch.p0")
        builder.call(declared, [at, I32_T(0), I32_T(2), I32_T(1)])
        return context.get_dummy_value()

    return types.void(addr), codegen


def decode_block(kind: int, block: int, stride: int, codes: int) -> None:
    """The codes of a block of 16 rows -> [8][4 codes of each row]. For kernels."""


@by_literal(decode_block)
def _(kind: int) -> Callable[..., None]:
    return _q4_0 if kind == Q4_0 else _q8_0


def _q4_0(kind: int, block: int, stride: int, codes: int) -> None:
    v0, v1, v2, v3 = transpose16(block + 2, stride)
    store(codes, nibbles(v0, 0), I8)
    store(codes + 64, nibbles(v1, 0), I8)
    store(codes + 128, nibbles(v2, 0), I8)
    store(codes + 192, nibbles(v3, 0), I8)
    store(codes + 256, nibbles(v0, 1), I8)
    store(codes + 320, nibbles(v1, 1), I8)
    store(codes + 384, nibbles(v2, 1), I8)
    store(codes + 448, nibbles(v3, 1), I8)


def _q8_0(kind: int, block: int, stride: int, codes: int) -> None:
    top = splat_i8(128, 64)
    for half in range(2):
        v0, v1, v2, v3 = transpose16(block + 2 + 16 * half, stride)
        out = codes + 256 * half
        store(out, xor_bits(v0, top), I8)
        store(out + 64, xor_bits(v1, top), I8)
        store(out + 128, xor_bits(v2, top), I8)
        store(out + 192, xor_bits(v3, top), I8)


def decode_panel(kind: int, w: int, w_row: int, n: int, blocks: int, codes: int, scales: int) -> None:
    """n (at most 16) rows at w -> codes [block][8][4 of each row] and scales [block][row]; the last row fills up."""


@by_literal(decode_panel)
def _(t: int) -> Callable[..., None]:
    size, by_columns = FORMS[t].type.nbytes, t in (Q4_0, Q8_0)

    def impl(kind: int, w: int, w_row: int, n: int, blocks: int, codes: int, scales: int) -> None:
        if by_columns and n == ROWS:
            for b in range(blocks):
                decode_block(t, w + size * b, w_row, codes + 512 * b)
                store(scales + 64 * b, column_f16(w + size * b, w_row), F32)
            return
        for r in range(ROWS):
            row = w + min(r, n - 1) * w_row
            for b in range(blocks):
                scatter4(codes + 512 * b + 4 * r, codes32(t, row + size * b, 0), 64)
                put(scales + 64 * b + 4 * r, scale(t, row + size * b), F32)

    return impl
