"""Rotary embedding: one table of cos and sin per run and rotation, shared by all layers."""

import math
from collections.abc import Callable

from graphsched import ops
from graphsched.backends.cpu.jit import kernel
from graphsched.backends.cpu.lowering import Low, row_address, rows_of
from graphsched.backends.cpu.simd import double, get, put
from graphsched.backends.cpu.steps import arg, real_arg, rows, share
from graphsched.backends.cpu.vector import F32, I32
from graphsched.operand import Operand, Out
from graphsched.tensor import Tensor, f32


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


@kernel
def rope_f32(neox: int) -> Callable[..., None]:
    def turn(step: int, run: int, ith: int, nth: int) -> None:
        x, table, y, n, half = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3), arg(step, 4)
        heads, token_stride, head_stride = arg(step, 5), arg(step, 6), arg(step, 7)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            px, py = x + r // heads * token_stride + r % heads * head_stride, y + r * n * 4
            row = table + r // heads * half * 8
            for i in range(half):
                ia = i if neox else 2 * i
                ib = i + half if neox else 2 * i + 1
                a, b = get(px + 4 * ia, F32), get(px + 4 * ib, F32)
                cos, sin = get(row + 8 * i, F32), get(row + 8 * i + 4, F32)
                put(py + 4 * ia, a * cos - b * sin, F32)
                put(py + 4 * ib, a * sin + b * cos, F32)
            for i in range(2 * half, n):
                put(py + 4 * i, get(px + 4 * i, F32), F32)

    return turn


@ops.rope.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    turn = node.attrs["rope"]
    (table,) = low.shared((turn, *node.sources[1:]), lambda: _table(low, node))
    y = Out(low.result(node, in_place_of=node.sources[:1]))
    args = (x, table, y, node.shape[-1], turn.n_rot // 2, *row_address(x))
    low.step(rope_f32(int(turn.mode == "neox")), *args, over=node.type)


def _table(low: Low, node: Tensor) -> tuple[Operand]:
    turn, pos = node.attrs["rope"], node.sources[1]
    factors = low.operand(node.sources[2]) if len(node.sources) > 2 else 0
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
