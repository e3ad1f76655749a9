"""Launches of decode.cu: weights of blocks as bf16."""

from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.layout import KERNEL_TYPE, LAYOUTS

BLOCK = 128


def decode(kind: str, w: Address, y: Address, total: int, first: int, rows: int, k: int) -> Call:
    """y[rows, k] = rows from `first` on of a repacked matrix of `total`."""
    t = KERNEL_TYPE[kind]
    steps = rows * (k // 32) * LAYOUTS[kind].q // 16
    return Call("decode", (t,), f"decode_{t}", (up(steps, BLOCK),), BLOCK, (w, y, total, first, rows, k))
