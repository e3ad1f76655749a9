"""Launches of matmul.cu and floats.cu: mat-vec, 8 tokens at once."""

from dataclasses import dataclass

from graphsched import dtypes, ops
from graphsched.backends.cuda.call import Address, Call, up
from graphsched.backends.cuda.copy import copy
from graphsched.backends.cuda.gemm import GEMM_Q8_TYPES, gemm, gemm_q8
from graphsched.backends.cuda.layout import KERNEL_TYPE, LAYOUTS
from graphsched.backends.cuda.lowering import At, Low, aligned, contiguous, row_stride
from graphsched.backends.cuda.quantize import quantize
from graphsched.backends.cuda.weights import BLOCKS, kind_of, row_bytes
from graphsched.backends.cuda.weights import FLOATS as FLOAT_TYPES
from graphsched.operand import Operand, Out
from graphsched.tensor import Tensor, TensorType

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


# ---- lowered

GEMM_FROM = 9  # tokens; fewer are mat-vecs


def quantised(low: Low, tensor: Tensor) -> tuple[Operand, Operand]:
    """int8 blocks of activations and their scales, made once for all products that read them."""

    def made() -> tuple[Operand, ...]:
        x, n = aligned(low, low.operand(tensor)), tensor.type.numel
        q, ds, stride = low.bytes("int8 blocks", n), low.floats("scales of blocks", n // 16), row_stride(x)

        def make(at: At) -> list[Call]:
            tokens, heads, k = at.shape(x.type)
            return [quantize(at(x), at(q), at(ds), tokens * heads, k, stride)]

        low.launch(make, x, Out(q), Out(ds))
        return q, ds

    q, ds = low.shared(("int8 blocks", tensor), made)
    return q, ds


def _fits(node: Tensor) -> bool:
    """Weights, and of several matrices one for each head."""
    w, x = node.sources
    return w.kind in ("weight", "copy") and (len(w.shape) == 2 or w.shape[0] == x.shape[1])


@ops.mul_mat.lowering("cuda", when=_fits, w=BLOCKS, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    w, (q, ds), y = low.operand(node.sources[0]), quantised(low, node.sources[1]), low.result(node)
    kind, k, several, sms = kind_of(w.type.dtype), int(w.type.shape[-1]), len(w.type.shape) == 3, low.sms
    count, total = (w.type.shape[0] if several else 1), int(w.type.shape[-2])
    first, last = node.attrs["rows"] or (0, total)
    many = not several and kind in GEMM_Q8_TYPES

    def make(at: At) -> list[Call]:
        tokens, n = at.n(node.shape[0]), last - first
        given = kind, at(w), at(q), at(ds), at(y), tokens, n, k
        if many and tokens >= GEMM_FROM:
            return [gemm_q8(*given, total, first)]
        return [matvec(*given, sms, Matrices(total, first, count))]

    low.launch(make, w, q, ds, Out(y))


def _fits_floats(node: Tensor) -> bool:
    """Inputs of several matrices start at multiples of 16 bytes."""
    return _fits(node) and (len(node.sources[0].shape) == 2 or node.sources[0].shape[-1] % 4 == 0)


@ops.mul_mat.lowering("cuda", when=_fits_floats, w=FLOAT_TYPES, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    w, x, y = low.operand(node.sources[0]), low.operand(node.sources[1]), low.result(node)
    kind, k, several, sms = kind_of(w.type.dtype), int(w.type.shape[-1]), len(w.type.shape) == 3, low.sms
    x = contiguous(low, x) if several or k % 4 else aligned(low, x)
    if k % 4:  # rows of x start at multiples of 16 bytes
        x = _padded(low, x)
    stride = x.strides[0] // 4 if int(x.type.shape[0]) > 1 else k * (w.type.shape[0] if several else 1)
    count, (first, last) = (w.type.shape[0] if several else 1), node.attrs["rows"] or (0, w.type.shape[-2])
    x16 = None
    if not several and kind != "f32" and k % 8 == 0 and int(x.type.shape[0]) >= GEMM_FROM:
        x16 = _halved(low, node.sources[1], x, kind)

    def make(at: At) -> list[Call]:
        tokens, n, start = at.n(node.shape[0]), last - first, at(w) + first * row_bytes(w.type)
        if x16 is not None and tokens >= GEMM_FROM:
            return [gemm(kind, at(x16), start, at(y), tokens, n, k, sms)]
        return [matvec_floats(kind, start, at(x), at(y), tokens, n, k, stride, sms, count)]

    low.launch(make, w, x, *([] if x16 is None else [x16]), Out(y))


def _halved(low: Low, tensor: Tensor, x: Operand, kind: str) -> Operand:
    """Activations in the weights' type, for the tensor cores."""

    def made() -> tuple[Operand, ...]:
        half = low.scratch(f"{kind} activations", TensorType(dtypes.F16, x.type.shape))
        stride = row_stride(x)

        def make(at: At) -> list[Call]:
            n, _, k = at.shape(x.type)
            if n < GEMM_FROM:
                return []
            return [copy(at(x), at(half), ("f32", kind), (n, 1, 1, k), (stride, 0, 0, 1), (k, 0, 0, 1))]

        low.launch(make, x, Out(half))
        return (half,)

    return low.shared((kind, tensor), made)[0]


def _padded(low: Low, x: Operand) -> Operand:
    """Rows of x at multiples of 4 floats."""
    n, k = int(x.type.shape[0]), int(x.type.shape[-1])
    pitch = up(k, 4) * 4
    wide = low.floats("padded rows", n, pitch)
    part = Operand(wide.buffer, x.type, (4 * pitch, 4), 0)
    low.launch(
        lambda at: [
            copy(
                at(x),
                at(wide),
                ("f32", "f32"),
                (at.n(x.type.shape[0]), 1, 1, k),
                (k, 0, 0, 1),
                (pitch, 0, 0, 1),
            )
        ],
        x,
        Out(part),
    )
    return part
