"""Rows in blocks of lanes: a loop's body is written once, for the full blocks and for the rest of the row.

A body is `body(i, block, ...)`: its block begins at element i, and `load_lanes` and `store_lanes` touch only the lanes
that are there. Full blocks are loaded and stored whole; only the last one is masked.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, register_model

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import masked_load, masked_store, mul, splat
from graphsched.backends.cpu.language.vector import (
    ELEMENTS,
    F32,
    I64_T,
    Vec,
    lanes,
    literal,
    load_elements,
    narrowed,
    store_raw,
)


class Block(types.Type):
    """`n` lanes of a row; of a partial block only the first ones are there, as many as its value says."""

    def __init__(self, n: int, partial: bool) -> None:
        self.n, self.partial = n, partial
        super().__init__(name=f"block<{n}{', partial' if partial else ''}>")


@register_model(Block)
class _BlockModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Block) -> None:
        super().__init__(dmm, fe_type, I64_T)


@intrinsic(prefer_literal=True)
def full_block(typingctx: Any, n: Any) -> Any:
    """A block of n lanes."""
    out = Block(literal(n, "n"), partial=False)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return I64_T(out.n)

    return out(n), codegen


@intrinsic(prefer_literal=True)
def first_of(typingctx: Any, n: Any, count: Any) -> Any:
    """The first `count` of n lanes."""
    out = Block(literal(n, "n"), partial=True)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[1]

    return out(n, types.int64), codegen


def load_block(builder: ir.IRBuilder, block: Block, count: ir.Value, addr: ir.Value, kind: int) -> ir.Value:
    """The vector of a block's elements, zeros where there are none."""
    if block.partial:
        return masked_load(builder, addr, kind, block.n, count)
    return load_elements(builder, addr, kind, block.n)


@intrinsic(prefer_literal=True)
def load_lanes(typingctx: Any, addr: Any, kind: Any, block: Any) -> Any:
    """The elements of `kind` of a block at addr, zeros where there are none; F16 and BF16 arrive as f32."""
    k = literal(kind, "kind")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_block(builder, block, args[2], args[0], k)

    return Vec(ELEMENTS[k], block.n)(types.int64, kind, block), codegen


@intrinsic
def load_or(typingctx: Any, addr: Any, block: Any, fill: Any) -> Any:
    """The float32 elements of a block at addr, `fill` where there are none."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if not block.partial:
            return load_elements(builder, args[0], F32, block.n)
        return masked_load(builder, args[0], F32, block.n, args[1], lanes(args[2], block.n, builder))

    return Vec("f32", block.n)(types.int64, block, types.float32), codegen


@intrinsic(prefer_literal=True)
def store_lanes(typingctx: Any, addr: Any, value: Any, kind: Any, block: Any) -> Any:
    """Stores a block's lanes at addr; an f32 vector may be rounded to F16."""
    k = literal(kind, "kind")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = narrowed(builder, args[1], k)
        if block.partial:
            masked_store(builder, args[0], v, args[3])
        else:
            store_raw(builder, args[0], v)
        return context.get_dummy_value()

    return types.void(types.int64, value, kind, block), codegen


def for_lanes(*widths: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates `body(i, block, *args)`; the helper made, `loop(n, *args)`, runs it for the blocks of a row of n.

    Blocks are as wide as possible: of two widths the wider comes first. The last may be partial.
    """

    def attach(body: Callable[..., None]) -> Callable[..., None]:
        step = helper(body)
        return _loop(step, *widths) if len(widths) == 1 else _loop_of_two(step, *widths)

    return attach


# Each loop is one function: every further one that Numba compiles on the way takes longer than what is in it.


def _loop(step: Callable[..., None], width: int) -> Callable[..., None]:
    @helper
    def loop(n: int, *args: Any) -> None:
        for i in range(0, n // width * width, width):
            step(i, full_block(width), *args)
        if n % width:
            step(n // width * width, first_of(width, n % width), *args)

    return loop


def _loop_of_two(step: Callable[..., None], wide: int, width: int) -> Callable[..., None]:
    @helper
    def loop(n: int, *args: Any) -> None:
        for i in range(0, n // wide * wide, wide):
            step(i, full_block(wide), *args)
        for i in range(n // wide * wide, n // width * width, width):
            step(i, full_block(width), *args)
        if n % width:
            step(n // width * width, first_of(width, n % width), *args)

    return loop


def fold_lanes(width: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates `body(i, block, carry, *args)`, which returns the next carry; `loop(n, carry, *args)` the last one."""

    def attach(body: Callable[..., Any]) -> Callable[..., Any]:
        step = helper(body)

        @helper
        def loop(n: int, carry: Any, *args: Any) -> Any:
            for i in range(0, n // width * width, width):
                carry = step(i, full_block(width), carry, *args)
            if n % width:
                carry = step(n // width * width, first_of(width, n % width), carry, *args)
            return carry

        return loop

    return attach


@for_lanes(16)
def clear(i: int, block: Any, y: int) -> None:
    """y = 0; called with (n, y)."""
    store_lanes(y + 4 * i, splat(0.0, 16), F32, block)


@for_lanes(16)
def put_scaled(i: int, block: Any, x: int, y: int, factor: float) -> None:
    """y = factor · x; called with (n, x, y, factor)."""
    store_lanes(y + 4 * i, mul(load_lanes(x + 4 * i, F32, block), splat(factor, 16)), F32, block)
