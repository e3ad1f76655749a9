"""Launches of rope.cu."""

from graphsched.backends.cuda.call import Call, Operand, threads


def rope(
    x: Operand,
    positions: Operand,
    freq: Operand,
    y: Operand,
    shape: tuple[int, int, int],
    n_rot: int,
    neox: bool,
    strides: tuple[int, int, int, int],
    mscale: float = 1.0,
) -> Call:
    """shape (tokens, heads, dims); strides (x head, x token, y head, y token); freq: radians a position."""
    tokens, heads, dims = shape
    args = (x, positions, freq, y, dims, n_rot, int(neox), mscale, *strides)
    return Call("rope", (), "rope", (heads, tokens), min(256, threads(dims // 2)), args)
