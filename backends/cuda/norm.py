"""Launches of norm.cu."""

from graphsched.backends.cuda.call import Call, Operand, threads


def rms_norm(
    x: Operand, w: Operand, y: Operand, rows: int, k: int, x_stride: int, y_stride: int, eps: float
) -> Call:
    """y = x / sqrt(mean(x²) + eps) · w; w may be None."""
    return Call("norm", (), "rms_norm", (rows,), threads(k), (x, w, y, k, x_stride, y_stride, eps))


def add_rms_norm(
    x: Operand, r: Operand, w: Operand, z: Operand, y: Operand, rows: int, k: int, eps: float
) -> Call:
    """z = x + r, y = rms_norm(z) · w."""
    return Call("norm", (), "add_rms_norm", (rows,), threads(k), (x, r, w, z, y, k, eps))
