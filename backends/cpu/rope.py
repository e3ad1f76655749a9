"""Rotary embedding: one table of cos and sin per run and rotation, shared by all layers."""

import math
from collections.abc import Callable, Sequence

from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.simd import double, get, put
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.kernel_args import arguments, repeated, row_at, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, f32
from graphsched.run.operand import Operand


@kernel("pos theta factors? -> table | half every | magnitude")
def rope_table(factored: int) -> Callable[..., None]:
    """table[t, i] = (cos, sin) · magnitude of pos[t] · theta[i], positions rounded down to `every`."""

    def angles(step: int, run: int, ith: int, nth: int) -> None:
        pos, theta, factors, table, half, every, magnitude = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for t in range(first, last):
            p = float(get(pos + 4 * t, I32) // every * every)
            for i in range(half):
                angle = p * double(theta, i)
                if factored:
                    angle = angle / get(factors + 4 * i, F32)
                put(table + 8 * (t * half + i), math.cos(angle) * magnitude, F32)
                put(table + 8 * (t * half + i) + 4, math.sin(angle) * magnitude, F32)

    return angles


@helper
def rotate_row(px: int, py: int, angles: int, n: int, half: int, neox: int) -> None:
    """Rotates the pairs of one head; the dimensions behind them are copied."""
    for i in range(half):
        ia = i if neox else 2 * i
        ib = i + half if neox else 2 * i + 1
        a, b = get(px + 4 * ia, F32), get(px + 4 * ib, F32)
        cos, sin = get(angles + 8 * i, F32), get(angles + 8 * i + 4, F32)
        put(py + 4 * ia, a * cos - b * sin, F32)
        put(py + 4 * ib, a * sin + b * cos, F32)
    for i in range(2 * half, n):
        put(py + 4 * i, get(px + 4 * i, F32), F32)


@kernel("table | n half tensors", each="x -> y | heads x_token x_head")
def rope_f32(neox: int) -> Callable[..., None]:
    """Rotates every head of one tensor or several; threads share each tensor by its own rows."""

    def rotate(step: int, run: int, ith: int, nth: int) -> None:
        table, n, half, tensors = arguments(step)
        for i in range(tensors):
            x, y, heads, x_token, x_head = repeated(step, i)
            first, last = share(rows(step, run) * heads, ith, nth)
            for r in range(first, last):
                t, px = r // heads, row_at(x, r, heads, x_token, x_head)
                rotate_row(px, y + r * n * 4, table + t * half * 8, n, half, neox)

    return rotate


@ops.rope.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    _rotate(low, node, node.sources[:1], (low.result(node, in_place_of=node.sources[:1]),))


@ops.fused_rope.lowering("cpu", strided=("q", "k"))
def _(low: Low, node: Tensor) -> None:
    # In the place of the keys, rotated queries would be written before the keys are read.
    _rotate(low, node, node.sources[:2], low.results(node, in_place_of=node.sources[:2], pairwise=True))


def _rotate(low: Low, node: Tensor, sources: Sequence[Tensor], results: Sequence[Operand]) -> None:
    rope, rest = node.attrs["rope"], node.sources[len(sources) :]
    (table,) = low.shared((rope, *rest), lambda: _table(low, rope, *rest))
    tensors = zip(map(low.operand, sources), results, strict=True)
    low.step(
        rope_f32(int(rope.mode == "neox")),
        table=table,
        n=results[0].type.shape[-1],
        half=rope.n_rot // 2,
        tensors=len(results),
        each=[{"x": x, "y": y, **row_strides(x=x)} for x, y in tensors],
        rows=rows_of(rest[0].type, inner=0),
        over=tuple(y.type for y in results),
    )


def _table(low: Low, rope: ops.Rope, pos: Tensor, *divisors: Tensor) -> tuple[Operand]:
    table = low.scratch("rope table", f32(pos.shape[0], rope.n_rot))
    low.step(
        rope_table(len(divisors)),
        pos=low.operand(pos),
        theta=low.constant(rope.theta()),
        factors=low.operand(divisors[0]) if divisors else None,
        table=table,
        half=rope.n_rot // 2,
        every=rope.every,
        magnitude=rope.magnitude,
        rows=rows_of(pos.type, inner=0),
    )
    return (table,)


@kernel("x pos -> y | n length offset heads x_token x_head | slope")
def temperature_f32() -> Callable[..., None]:
    """y = x · (1 + slope · log(floor((pos + offset) / length) + 1)), rows of n floats."""

    def temperature(step: int, run: int, ith: int, nth: int) -> None:
        x, pos, y, n, length, offset, heads, x_token, x_head, slope = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            far = (get(pos + 4 * (r // heads), I32) + offset) // length
            factor = 1.0 + slope * math.log(float(far + 1))
            px, py = row_at(x, r, heads, x_token, x_head), y + r * n * 4
            for i in range(n):
                put(py + 4 * i, get(px + 4 * i, F32) * factor, F32)

    return temperature


@ops.temperature_scale.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    x, pos = map(low.operand, node.sources)
    y, a = low.result(node, in_place_of=node.sources[:1]), node.attrs
    sizes = {"n": node.shape[-1], "length": a["length"], "offset": a["offset"], **row_strides(x=x)}
    low.step(temperature_f32(), x=x, pos=pos, y=y, **sizes, slope=a["slope"], over=node.type)
