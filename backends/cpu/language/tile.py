"""Register tiles: rows of SIMD vectors as one value.

A tile is a tuple of equal vectors. The arithmetic of `simd` takes tiles: it works row by row, and a vector beside a
tile counts for each of its rows.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.types.containers import UniTuple
from numba.extending import intrinsic

from graphsched.backends.cpu.language import target
from graphsched.backends.cpu.language.jit import by_literal, helper
from graphsched.backends.cpu.language.lanes import Block, load_block
from graphsched.backends.cpu.language.simd import add_halves, masked_store
from graphsched.backends.cpu.language.vector import (
    ELEMENTS,
    I32_T,
    I64_T,
    LLVM,
    Vec,
    as_they_are,
    call,
    const_vec,
    in_pieces,
    joined,
    lanes,
    literal,
    load_raw,
    store_raw,
)


def each_row(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates `fn(r, *args)`; the function made, `rows(n, *args)`, returns (fn(0, *args), ..., fn(n - 1, *args)).

    n is a literal: 1, 2, 4 or 8. For kernels.
    """
    one = helper(fn)

    def rows(n: int, *args: Any) -> Any:
        raise NotImplementedError

    @by_literal(rows)
    def _(n: int) -> Callable[..., Any]:
        return _ROWS[n](one)

    return rows


# Written out: a chain of functions, each with a row more, would be compiled link by link, for every type of arguments.


def _one_row(one: Callable[..., Any]) -> Callable[..., Any]:
    def rows(n: int, *args: Any) -> Any:
        return (one(0, *args),)

    return rows


def _two_rows(one: Callable[..., Any]) -> Callable[..., Any]:
    def rows(n: int, *args: Any) -> Any:
        return one(0, *args), one(1, *args)

    return rows


def _four_rows(one: Callable[..., Any]) -> Callable[..., Any]:
    def rows(n: int, *args: Any) -> Any:
        return one(0, *args), one(1, *args), one(2, *args), one(3, *args)

    return rows


def _eight_rows(one: Callable[..., Any]) -> Callable[..., Any]:
    def rows(n: int, *args: Any) -> Any:
        low = one(0, *args), one(1, *args), one(2, *args), one(3, *args)
        return low + (one(4, *args), one(5, *args), one(6, *args), one(7, *args))  # noqa: RUF005  # as Numba has it

    return rows


_ROWS = {1: _one_row, 2: _two_rows, 4: _four_rows, 8: _eight_rows}


def unrolled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates `fn(r, carry, *args)`, which returns the next carry; `steps(n, carry, *args)` is the last one.

    n is a literal: r is a constant in each step, whatever the compiler thinks of the loop. For kernels.
    """
    one = helper(fn)

    def steps(n: int, carry: Any, *args: Any) -> Any:
        raise NotImplementedError

    @by_literal(steps)
    def _(n: int) -> Callable[..., Any]:
        chain = _begin
        for r in range(n):
            chain = _and_step(chain, one, r)

        def impl(n: int, carry: Any, *args: Any) -> Any:
            return chain(carry, *args)

        return impl

    return steps


@helper
def _begin(carry: Any, *args: Any) -> Any:
    return carry


def _and_step(before: Callable[..., Any], one: Callable[..., Any], r: int) -> Callable[..., Any]:
    @helper
    def steps(carry: Any, *args: Any) -> Any:
        return one(r, before(carry, *args), *args)

    return steps


def _zeros(elem: str) -> Any:
    def typed(typingctx: Any, rows: Any, n: Any) -> Any:
        count = n.n if isinstance(n, Block) else literal(n, "n")
        out = UniTuple(Vec(elem, count), literal(rows, "rows"))

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return context.make_tuple(builder, out, [ir.Constant(out.dtype.llvm, None)] * out.count)

        return out(rows, n), codegen

    typed.__doc__ = f"A tile of zeros: so many rows of n {elem} lanes."
    return intrinsic(prefer_literal=True)(typed)


zeros, zeros_i32, zeros_i16 = _zeros("f32"), _zeros("i32"), _zeros("i16")


@intrinsic(prefer_literal=True)
def columns(typingctx: Any, addr: Any, stride: Any, kind: Any, rows: Any, n: Any) -> Any:
    """A tile whose row r has the F32 or I32 value at addr + r · stride in all of n lanes, or of a block's lanes."""
    elem, count = ELEMENTS[literal(kind, "kind")], n.n if isinstance(n, Block) else literal(n, "n")
    out = UniTuple(Vec(elem, count), literal(rows, "rows"))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = [builder.add(args[0], builder.mul(args[1], I64_T(r))) for r in range(out.count)]
        values = [lanes(load_raw(builder, a, LLVM[elem]), count, builder) for a in at]
        return context.make_tuple(builder, out, values)

    return out(types.int64, types.int64, kind, rows, n), codegen


@intrinsic(prefer_literal=True)
def byte_columns(typingctx: Any, addr: Any, rows: Any) -> Any:
    """A tile whose row r has the r-th 4 bytes at addr, 16 times: 64 int8 lanes. As many rows as a tile, or so many."""
    out = UniTuple(Vec("i8", 64), rows.count if isinstance(rows, UniTuple) else literal(rows, "rows"))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        words = [load_raw(builder, builder.add(args[0], I64_T(4 * r)), I32_T) for r in range(out.count)]
        values = [builder.bitcast(lanes(w, 16, builder), out.dtype.llvm) for w in words]
        return context.make_tuple(builder, out, values)

    return out(types.int64, rows), codegen


@intrinsic(prefer_literal=True)
def load_rows(typingctx: Any, starts: Any, offset: Any, kind: Any, block: Any) -> Any:
    """A tile of a block's elements of `kind`, row r from `offset` bytes behind starts[r]."""
    k = literal(kind, "kind")
    out = UniTuple(Vec(ELEMENTS[k], block.n), starts.count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = [builder.add(builder.extract_value(args[0], r), args[1]) for r in range(out.count)]
        return context.make_tuple(builder, out, [load_block(builder, block, args[3], a, k) for a in at])

    return out(starts, types.int64, kind, block), codegen


@intrinsic(prefer_literal=True)
def store_rows(typingctx: Any, starts: Any, offset: Any, tile: Any, count: Any, block: Any) -> Any:
    """Stores the first `count` rows of a tile, a block's lanes of row r `offset` bytes behind starts[r]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for r in range(tile.count):
            at, v = builder.add(builder.extract_value(args[0], r), args[1]), builder.extract_value(args[2], r)
            with builder.if_then(builder.icmp_signed("<", I64_T(r), args[3])):
                if block.partial:
                    masked_store(builder, at, v, args[4])
                else:
                    store_raw(builder, at, v)
        return context.get_dummy_value()

    return types.void(starts, types.int64, tile, types.int64, block), codegen


@intrinsic
def outer(typingctx: Any, a: Any, b: Any, acc: Any) -> Any:
    """acc plus the products of every row of a with every row of b: row i · (rows of b) + j is a[i] · b[j]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        name, rows = f"llvm.fma.v{a.dtype.n}f32", []
        for r in range(acc.count):
            i, j = divmod(r, b.count)
            operands = [builder.extract_value(v, k) for v, k in zip(args, (i, j, r), strict=True)]
            rows.append(call(builder, name, acc.dtype.llvm, operands))
        return context.make_tuple(builder, acc, rows)

    return acc(a, b, acc), codegen


@intrinsic
def row_sums(typingctx: Any, tile: Any) -> Any:
    """The sum of each of 1, 2, 4 ... rows, one lane per row: each sum by halves, as `sum_lanes` does it."""
    out = Vec("f32", tile.count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows, group = [builder.extract_value(args[0], r) for r in range(tile.count)], tile.dtype.n
        while len(rows) > 1:
            rows = [add_halves(builder, a, b, group) for a, b in zip(rows[::2], rows[1::2], strict=True)]
            group //= 2
        while group > 1:
            rows = [add_halves(builder, rows[0], None, group)]
            group //= 2
        return rows[0]

    return out(tile), codegen


@intrinsic(prefer_literal=True)
def split_rows(typingctx: Any, v: Any, rows: Any) -> Any:
    """A vector as a tile of so many rows."""
    count = literal(rows, "rows")
    out = UniTuple(Vec(v.elem, v.n // count), count)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        undef, n = ir.Constant(v.llvm, ir.Undefined), out.dtype.n
        picks = [const_vec(I32_T, list(range(n * r, n * (r + 1)))) for r in range(count)]
        return context.make_tuple(builder, out, [builder.shuffle_vector(args[0], undef, p) for p in picks])

    return out(v, rows), codegen


@intrinsic
def put_column(typingctx: Any, addr: Any, stride: Any, v: Any) -> Any:
    """Stores lane r of f32 lanes at addr + r · stride."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for r in range(v.n):
            at = builder.add(args[0], builder.mul(args[1], I64_T(r)))
            store_raw(builder, at, builder.extract_element(args[2], I32_T(r)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, v), codegen


@intrinsic
def in_registers(typingctx: Any, tile: Any) -> Any:
    """The same tile, all of it in registers at this point: sums stay in the order that they were written in.

    Without it the compiler turns a chain of integer sums into a tree, whose many operands are then spilled.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        each = max(tile.dtype.nbytes // target.register_bytes(), 1)
        rows = [in_pieces(builder, builder.extract_value(args[0], r), each) for r in range(tile.count)]
        kept = as_they_are(builder, [piece for row in rows for piece in row])
        return context.make_tuple(
            builder, tile, [joined(builder, kept[each * r : each * (r + 1)]) for r in range(tile.count)]
        )

    return tile(tile), codegen


@each_row
def row_starts(r: int, first: int, stride: int, last: int) -> int:
    """The addresses of rows `stride` bytes apart; beyond row `last` it is that row again, so that all are there."""
    return first + min(r, last) * stride
