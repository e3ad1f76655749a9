"""Launches of elementwise.cu."""

from graphsched.backends.cuda.call import Call, Operand, up


def binary(
    op: str, a: Operand, b: Operand, y: Operand, rows: int, k: int, strides: tuple[int, int, int]
) -> Call:
    """op: add, mul, silu_mul, gelu_mul, relu2_mul (f(a)·b); strides of a, b, y, 0 repeats a row."""
    return Call("elementwise", (), op, (up(k, 256), rows), 256, (a, b, y, k, *strides))


def scale(x: Operand, y: Operand, rows: int, k: int, strides: tuple[int, int], by: float) -> Call:
    """y = x · by."""
    return Call("elementwise", (), "scale", (up(k, 256), rows), 256, (x, y, k, *strides, by))


def weighted_sum(x: Operand, weights: Operand, y: Operand, tokens: int, used: int, k: int) -> Call:
    """y[t] = Σ_e weights[t, e] · x[t, e]."""
    return Call("elementwise", (), "weighted_sum", (up(k, 256), tokens), 256, (x, weights, y, k, used))
