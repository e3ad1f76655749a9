"""Activations of ternary products as mat-vec reads them: int8 with one scale per row, in the order of the weights."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from graphsched.backends.cpu.formats.forms import FORMS, Form, Ternary
from graphsched.backends.cpu.formats.int8 import q8_codes64, q8_row
from graphsched.backends.cpu.language.dot_bytes import dot_u7_i8
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.simd import put, splat_i8, splat_i32, store, sum_lanes
from graphsched.backends.cpu.language.vector import (
    F32,
    I8,
    I8_T,
    I32,
    I32_T,
    I64_T,
    const_vec,
    literal,
    store_raw,
)
from graphsched.backends.cpu.program.kernel_args import arguments, row_at, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides
from graphsched.graph.tensor import Tensor, TensorType, f32, i32
from graphsched.run.operand import Operand
from graphsched.types import dtypes


@intrinsic(prefer_literal=True)
def store_ordered(typingctx: Any, kind: Any, addr: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """256 codes, 64 in each vector -> addr, in the order in which weights of this type come."""
    ternary = FORMS[literal(kind, "kind")].ternary
    assert ternary is not None

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        low, high = (
            builder.shuffle_vector(*args[i : i + 2], const_vec(I32_T, list(range(128)))) for i in (2, 4)
        )
        every = builder.shuffle_vector(low, high, const_vec(I32_T, list(range(256))))
        zeros = ir.Constant(ir.VectorType(I8_T, 256), None)
        for first in range(0, len(ternary.order), 64):
            picks = [w if w >= 0 else 256 for w in ternary.order[first : first + 64]]
            piece = builder.shuffle_vector(every, zeros, const_vec(I32_T, picks))
            store_raw(builder, builder.add(args[1], I64_T(first)), piece)
        return context.get_dummy_value()

    return types.void(kind, types.int64, a, a, a, a), codegen


@kernel("x -> q d isum | k q_row groups heads x_token x_head")
def quantize_rows(kind: int) -> Callable[..., None]:
    """Activations to int8 per row: q[t] in the order of a type, scale d[t], and sums of q over groups of weights."""
    form = FORMS[kind]
    assert form.ternary is not None
    group, of_256 = form.group, len(form.ternary.order)

    def quantize(step: int, run: int, ith: int, nth: int) -> None:
        x, q, d, isum, k, q_row, groups, heads, x_token, x_head = arguments(step)
        full = k // 256
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            src, out, sums = row_at(x, r, heads, x_token, x_head), q + q_row * r, 0
            scale, inverse = q8_row(src, k)
            put(d + 4 * r, scale, F32)
            for b in range(full):
                at = src + 1024 * b
                e, f = q8_codes64(at, inverse), q8_codes64(at + 256, inverse)
                g, h = q8_codes64(at + 512, inverse), q8_codes64(at + 768, inverse)
                store_ordered(kind, out + of_256 * b, e, f, g, h)
                ones = splat_i8(1, 64)
                total = dot_u7_i8(dot_u7_i8(splat_i32(0, 16), ones, e), ones, f)
                sums += sum_lanes(dot_u7_i8(dot_u7_i8(total, ones, g), ones, h))
                if group:
                    put(isum + 4 * (groups * r + b), sums, I32)
                    sums = 0
            for b in range(4 * full, k // 64):  # these come in the file's order
                codes = q8_codes64(src + 256 * b, inverse)
                store(out + of_256 * full + 64 * (b - 4 * full), codes, I8)
                sums += sum_lanes(dot_u7_i8(splat_i32(0, 16), splat_i8(1, 64), codes))
            if not group:
                put(isum + 4 * r, sums, I32)

    return quantize


def ordered_bytes(ternary: Ternary, k: int) -> int:
    """Bytes of a row of k activations."""
    return k // 256 * len(ternary.order) + k % 256


def quantized_rows(low: Low, x: Tensor, form: Form) -> tuple[Operand, ...]:
    """(codes, scales, sums) of x [..., k] as mat-vec reads them beside weights of a ternary type."""
    assert form.ternary is not None
    operand, ternary, k = low.operand(x), form.ternary, x.shape[-1]

    def make() -> tuple[Operand, ...]:
        outer, n = x.shape[:-1], ordered_bytes(ternary, k)
        q = low.scratch("q8 rows", TensorType(dtypes.I8, (*outer, n)))
        d, isum = (
            low.scratch("q8 scales", f32(*outer, 1)),
            low.scratch("q8 sums", i32(*outer, form.groups(k))),
        )
        sizes = {"k": k, "q_row": n, "groups": form.groups(k), **row_strides(x=operand)}
        low.step(quantize_rows(form.type.id), x=operand, q=q, d=d, isum=isum, **sizes, over=x.type)
        return q, d, isum

    return low.shared(("q8 rows", x, ternary.order, form.group), make)
