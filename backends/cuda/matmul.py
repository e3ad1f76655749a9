"""Launches of matmul.cu and floats.cu: mat-vec for 1 to 8 tokens."""

from graphsched.backends.cuda.call import Call, Operand, up
from graphsched.backends.cuda.layout import KERNEL_TYPE, LAYOUTS
from graphsched.errors import ShapeError

BLOCK = 128
ROWS = 2  # rows a warp takes (GS_ROWS of matvec.cuh)
FLOATS = {"f32": 4, "f16": 8, "bf16": 8}  # weights in 16 bytes


def matvec(
    kind: str, w: Operand, q: Operand, ds: Operand, y: Operand, tokens: int, rows: int, k: int, sms: int = 132
) -> Call:
    """y[tokens, rows] = x · wᵀ for 1 to 8 quantised tokens."""
    t, split = KERNEL_TYPE[kind], split_of(rows, steps_of(kind, k), sms)
    args = (w, q, ds, y, tokens, rows, k, rows, split)
    return Call("matmul", (t,), f"matvec_{_tokens(tokens)}_{t}", (blocks(rows, split),), BLOCK, args)


def matvec_floats(
    kind: str,
    w: Operand,
    x: Operand,
    y: Operand,
    tokens: int,
    rows: int,
    k: int,
    x_stride: int,
    sms: int = 132,
) -> Call:
    """The same for F32, F16, BF16 weights and float activations."""
    pitch = up(k, FLOATS[kind])
    split = split_of(rows, pitch, sms)
    args = (w, x, y, tokens, rows, k, pitch, x_stride, rows, split)
    name = f"matvec_{_tokens(tokens)}_{kind}"
    return Call("floats", (kind,), name, (blocks(rows, split),), BLOCK, args)


def _tokens(n: int) -> int:
    if not 1 <= n <= 8:
        raise ShapeError(f"mat-vec kernels take 1 to 8 tokens, not {n}")
    return next(c for c in (1, 2, 4, 8) if c >= n)


def steps_of(kind: str, k: int) -> int:
    """16-byte loads of a row's low bits: what its lanes share out."""
    return k * LAYOUTS[kind].q // 32 // 16


def split_of(rows: int, steps: int, sms: int) -> int:
    """Parts of K: enough warps to keep 16 a multiprocessor, as long as each lane has two steps."""
    split = 1
    while split < 4 and up(rows, ROWS) * split < 16 * sms and steps >= 32 * 4 * split:
        split *= 2
    return split


def blocks(rows: int, split: int, per_warp: int = ROWS) -> int:
    """Blocks for `rows`, `per_warp` of them a warp."""
    return up(rows, BLOCK // 32 // split * per_warp)
