"""Launches of copy.cu: conversions, rows by index, weights to floats."""

from collections.abc import Sequence

from graphsched.backends.cuda.call import Call, Operand, up
from graphsched.backends.cuda.layout import KERNEL_TYPE


def copy(
    x: Operand, y: Operand, types: tuple[str, str], shape: Sequence[int], xs: Sequence[int], ys: Sequence[int]
) -> Call:
    """Four dimensions, strides in elements; types ("f32", "f16") and the like."""
    n0, n1, n2, n3 = shape
    args = (x, y, n1, n3, *xs, *ys)
    return Call("copy", (), f"copy_{types[0]}_{types[1]}", (up(n3, 256), n2, n0 * n1), 256, args)


def set_rows(
    to: str, x: Operand, slots: Operand, y: Operand, rows: int, k: int, strides: tuple[int, int]
) -> Call:
    """y[slots[i]] = x[i], f32 → `to`; a slot below 0 is skipped."""
    return Call("copy", (), f"set_rows_{to}", (up(k, 256), rows), 256, (x, slots, y, k, *strides))


def get_rows(
    kind: str, x: Operand, which: Operand, y: Operand, n: int, rows: int, k: int, stride: int
) -> Call:
    """y[i] = x[which[i]] for a matrix of f32, f16 or bf16; a row outside the matrix is zeros."""
    return Call("copy", (), f"get_rows_{kind}", (up(k, 256), n), 256, (x, which, y, rows, k, stride))


def dequantize(kind: str, to: str, w: Operand, y: Operand, which: Operand, n: int, rows: int, k: int) -> Call:
    """Rows which[0..n) (None: 0..n) of a repacked tensor → f32, f16 or bf16."""
    t = KERNEL_TYPE[kind]
    return Call("copy", (t,), f"to_{to}_{t}", (up(k // 32, 128), n), 128, (w, y, which, rows, k))
