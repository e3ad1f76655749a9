"""Rotary embedding: one table of cos and sin per run and rotation, shared by all layers."""

import math
from collections.abc import Callable, Sequence

from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.simd import double, get, put
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.kernel_args import arg, real_arg, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_address, rows_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, f32
from graphsched.run.operand import Operand, Out


@kernel
def rope_table(factored: int) -> Callable[..., None]:
    """table[t, i] = (cos, sin) · magnitude of pos[t] · theta[i]; angles in float64."""

    def table(step: int, run: int, ith: int, nth: int) -> None:
        pos, theta, factors, out, half = (
            arg(step, 0),
            arg(step, 1),
            arg(step, 2),
            arg(step, 3),
            arg(step, 4),
        )
        magnitude = real_arg(step, 5)
        first, last = share(rows(step, run), ith, nth)
        for t in range(first, last):
            p = float(get(pos + 4 * t, I32))
            for i in range(half):
                angle = p * double(theta, i)
                if factored:
                    angle = angle / get(factors + 4 * i, F32)
                put(out + 8 * (t * half + i), math.cos(angle) * magnitude, F32)
                put(out + 8 * (t * half + i) + 4, math.sin(angle) * magnitude, F32)

    return table


@helper
def turn_row(px: int, py: int, angles: int, n: int, half: int, neox: int) -> None:
    """Turns the pairs of one head; what is behind them is copied."""
    for i in range(half):
        ia = i if neox else 2 * i
        ib = i + half if neox else 2 * i + 1
        a, b = get(px + 4 * ia, F32), get(px + 4 * ib, F32)
        cos, sin = get(angles + 8 * i, F32), get(angles + 8 * i + 4, F32)
        put(py + 4 * ia, a * cos - b * sin, F32)
        put(py + 4 * ib, a * sin + b * cos, F32)
    for i in range(2 * half, n):
        put(py + 4 * i, get(px + 4 * i, F32), F32)


@kernel
def rope_f32(neox: int) -> Callable[..., None]:
    """Turns every head of one tensor or more, each of which is shared out by its own rows."""

    def turn(step: int, run: int, ith: int, nth: int) -> None:
        table, n, half, tensors = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        for i in range(tensors):
            x, y, heads = arg(step, 4 + 5 * i), arg(step, 5 + 5 * i), arg(step, 6 + 5 * i)
            token_stride, head_stride = arg(step, 7 + 5 * i), arg(step, 8 + 5 * i)
            first, last = share(rows(step, run) * heads, ith, nth)
            for r in range(first, last):
                t, px = r // heads, x + r // heads * token_stride + r % heads * head_stride
                turn_row(px, y + r * n * 4, table + t * half * 8, n, half, neox)

    return turn


@ops.rope.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    _turn(low, node, node.sources[:1], (low.result(node, in_place_of=node.sources[:1]),))


@ops.fused_rope.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    _turn(low, node, node.sources[:2], low.results(node, in_place_of=node.sources[:2]))


def _turn(low: Low, node: Tensor, sources: Sequence[Tensor], made: Sequence[Operand]) -> None:
    turn, rest = node.attrs["rope"], node.sources[len(sources) :]
    (table,) = low.shared((turn, *rest), lambda: _table(low, turn, *rest))
    heads: list[Operand | Out | int] = []
    for x, y in zip(map(low.operand, sources), made, strict=True):
        heads += (x, Out(y), *row_address(x))
    args = (table, made[0].type.shape[-1], turn.n_rot // 2, len(made), *heads)
    kernel, over = rope_f32(int(turn.mode == "neox")), tuple(y.type for y in made)
    low.step(kernel, *args, rows=rows_of(rest[0].type, inner=0), over=over)


def _table(low: Low, turn: ops.Rope, pos: Tensor, *divisors: Tensor) -> tuple[Operand]:
    factors = low.operand(divisors[0]) if divisors else 0
    table = low.scratch("rope table", f32(pos.shape[0], turn.n_rot))
    args = (low.operand(pos), low.constant(turn.theta()), factors, Out(table), turn.n_rot // 2)
    low.step(rope_table(int(factors != 0)), *args, float(turn.magnitude), rows=rows_of(pos.type, inner=0))
    return (table,)


@kernel
def temperature_f32() -> Callable[..., None]:
    def temperature(step: int, run: int, ith: int, nth: int) -> None:
        x, pos, y, n, length = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3), arg(step, 4)
        heads, token_stride, head_stride = arg(step, 5), arg(step, 6), arg(step, 7)
        slope = real_arg(step, 8)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            far = (get(pos + 4 * (r // heads), I32) + 1) // length
            factor = 1.0 + slope * math.log(float(far + 1))
            px, py = x + r // heads * token_stride + r % heads * head_stride, y + r * n * 4
            for i in range(n):
                put(py + 4 * i, get(px + 4 * i, F32) * factor, F32)

    return temperature


@ops.temperature_scale.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    x, pos = map(low.operand, node.sources)
    y, a = Out(low.result(node, in_place_of=node.sources[:1])), node.attrs
    args = (x, pos, y, node.shape[-1], a["length"], *row_address(x), float(a["slope"]))
    low.step(temperature_f32(), *args, over=node.type)
