"""Launches of matmul.cu and floats.cu: mat-vec, 8 tokens at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.fused import ACTIVATIONS
from graphsched.backends.cuda.launch.layout import KERNEL_TYPE, LAYOUTS

BLOCK = 128
ROWS = 2  # rows a warp takes (GS_ROWS of matvec.cuh)
FLOATS = {"f32": 4, "f16": 8, "bf16": 8}  # weights in 16 bytes


@dataclass(frozen=True)
class Matrices:
    """Rows from `first` on of a matrix of `total`; or several matrices whose inputs and outputs stand side by side."""

    total: int
    first: int = 0
    count: int = 1


def matvec(
    kind: str,
    w: Address,
    q: Address,
    ds: Address,
    y: Address,
    tokens: int,
    rows: int,
    k: int,
    sms: int = 132,
    of: Matrices | None = None,
) -> Call:
    """y[tokens, rows] = x · wᵀ for quantised tokens, 8 of which share a read of w."""
    t, of = KERNEL_TYPE[kind], of or Matrices(rows)
    split, at_once = split_of(rows * of.count, steps_of(kind, k), sms), tokens_at_once(tokens)
    several = of.count, LAYOUTS[kind].nbytes_of(of.total, k), rows
    args = (w, q, ds, y, tokens, rows, k, rows * of.count, split, of.total, of.first, *several)
    grid = (blocks(rows, split), of.count, up(tokens, at_once))
    return Call("matmul", (t,), f"matvec_{at_once}_{t}", grid, BLOCK, args)


One = tuple[Address, Address, int]  # a matrix, its product, its rows


def matvec_fused(kind: str, matrices: Sequence[One], q: Address, ds: Address, k: int, sms: int = 132) -> Call:
    """y = w · x for one token and up to three matrices, with the bits of a launch each."""
    t = KERNEL_TYPE[kind]
    grid, args = _shares(matrices, steps_of(kind, k), sms)
    return Call("matmul", (t,), f"matvec_fused_{t}", grid, BLOCK, (*args, q, ds, k))


def matvec_fused_floats(kind: str, matrices: Sequence[One], x: Address, k: int, sms: int = 132) -> Call:
    """The same for F32, F16, BF16 weights and float activations."""
    pitch = up(k, FLOATS[kind])
    grid, args = _shares(matrices, pitch, sms)
    return Call("floats", (kind,), f"matvec_fused_{kind}", grid, BLOCK, (*args, x, k, pitch))


def _shares(matrices: Sequence[One], steps: int, sms: int) -> tuple[tuple[int], list[Address]]:
    """The grid, and each matrix with the split that it has alone."""
    args: list[Address] = []
    total = 0
    for w, y, rows in [*matrices, (None, None, 0), (None, None, 0)][:3]:
        split = split_of(rows, steps, sms) if rows else 1
        args += [w, y, rows, split]
        total += blocks(rows, split)
    return (total,), args


def up_gate_floats(
    kind: str,
    w_up: Address,
    w_gate: Address,
    x: Address,
    y: Address,
    rows: int,
    k: int,
    activation: str,
    sms: int = 132,
) -> Call:
    """y = f(gate · x) · (up · x) for one token and F32, F16, BF16 weights."""
    pitch = up(k, FLOATS[kind])
    split, how = split_of(rows, pitch, sms), ACTIVATIONS.index(activation)
    args = (w_up, w_gate, x, y, rows, k, pitch, how, split)
    return Call("floats", (kind,), f"up_gate_{kind}", (blocks(rows, split, 1),), BLOCK, args)


def matvec_floats(
    kind: str,
    w: Address,
    x: Address,
    y: Address,
    tokens: int,
    rows: int,
    k: int,
    x_stride: int,
    sms: int = 132,
    count: int = 1,
) -> Call:
    """The same for F32, F16, BF16 weights and float activations; of several, x[tokens, count, k]."""
    pitch, at_once = up(k, FLOATS[kind]), tokens_at_once(tokens)
    split = split_of(rows * count, pitch, sms)
    args = (w, x, y, tokens, rows, k, pitch, x_stride, rows * count, split, rows * pitch * 16, k, rows)
    grid = (blocks(rows, split), count, up(tokens, at_once))
    return Call("floats", (kind,), f"matvec_{at_once}_{kind}", grid, BLOCK, args)


def tokens_at_once(n: int) -> int:
    """Tokens that share one read of the weights."""
    return next((c for c in (1, 2, 4) if c >= n), 8)


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
