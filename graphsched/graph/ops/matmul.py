"""Matrix products: dense, per head, and by expert."""

from collections.abc import Iterator

import numpy as np

from graphsched.graph.opdef import WEIGHT, Array, Case, Op, as_f32, case, op, require
from graphsched.graph.ops.elementwise import UNARY, fused_mul_unary, mul, sqr, unary
from graphsched.graph.ops.several import several
from graphsched.graph.tensor import Tensor, TensorType, f32, i32
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

FLOAT_TYPES = (dtypes.F32, dtypes.F16, dtypes.BF16)
BLOCK_NAMES = """
    Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q6_0 IQ4_NL MXFP4 NVFP4 Q1_0 IQ2_BN IQ1_BN Q4_K Q5_K Q6_K IQ4_XS Q3_K Q2_K TQ2_0 TQ1_0
    IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S
"""
BLOCK_TYPES = tuple(map(dtypes.by_name, BLOCK_NAMES.split()))
WEIGHT_TYPES = FLOAT_TYPES + BLOCK_TYPES
# One of each kind of block, for what does not depend on how a block is laid out.
KINDS_OF_BLOCKS = (*FLOAT_TYPES, *map(dtypes.by_name, ("Q8_0", "Q4_0", "IQ2_BN", "Q4_K", "Q6_K")))
# 8-bit activations: what the fast kernels of quantised types cost against exact activations.
ROUNDED = {t.name: 1e-9 if t in FLOAT_TYPES else 2e-4 for t in WEIGHT_TYPES}


def whole_blocks(t: DType, k: int) -> int:
    """At least k weights that are blocks of a type."""
    return -(-k // t.block) * t.block


def _of_weights(node: Tensor) -> bool:
    """A row of the result depends on its row of x alone, unless the matrices are made of rows of other tokens."""
    return len(node.sources[0].shape) == 2 or node.sources[0].kind == "weight"


@op(Op.MUL_MAT, rowwise=_of_weights, product=("w",), reads_cache="w")
def mul_mat(w: Tensor, x: Tensor, *, rows: tuple[int, int] | None = None) -> TensorType:
    """y[t, n] = Σ_k w[n, k] · x[t, k]; with w[h, n, k] and x[t, h, k] one matrix per head.

    If x has more heads, as many in a row as there are times more share a matrix. `rows` (first, last) takes a part
    of a matrix only.
    """
    fits = len(w.shape) in (2, 3) and len(x.shape) == len(w.shape) and w.shape[-1] == x.shape[-1]
    require(fits and (len(w.shape) == 2 or x.shape[1] % w.shape[0] == 0), "mul_mat: {} does not fit {}", w, x)
    if rows is None:
        return f32(*x.shape[:-1], w.shape[-2])
    require(
        len(w.shape) == 2 and 0 <= rows[0] < rows[1] <= w.shape[0], "mul_mat: rows {} are not in {}", rows, w
    )
    return f32(x.shape[0], rows[1] - rows[0])


@mul_mat.reference
def _(w: Array, x: Array, *, rows: tuple[int, int] | None = None) -> Array:
    w = w[slice(*rows)] if rows else w
    if w.ndim == 2:
        return x @ w.T
    return np.einsum("hnk,thk->thn", np.repeat(w, x.shape[1] // len(w), axis=0), x, dtype=np.float32)


def _rows_of(w: TensorType, rows: tuple[int, int] | None) -> TensorType:
    return w if rows is None else TensorType(w.dtype, (rows[1] - rows[0], w.shape[1]))


@mul_mat.flops
def _(w: TensorType, x: TensorType, *, rows: tuple[int, int] | None = None) -> int:
    return 2 * x.numel * int(_rows_of(w, rows).shape[-2])


@mul_mat.nbytes
def _(w: TensorType, x: TensorType, *, rows: tuple[int, int] | None = None) -> int:
    part = _rows_of(w, rows)
    return part.nbytes + x.nbytes + 4 * x.numel // x.shape[-1] * part.shape[-2]


mul_mat.draw(w=WEIGHT)


@mul_mat.cases
def _() -> Iterator[Case]:
    for t in WEIGHT_TYPES:
        for n_tokens in (1, 2, 7, 33):
            for rows, k in ((5, 32), (37, 64), (16, 288), (130, 1024)):
                whole = whole_blocks(t, k)
                w = TensorType(t, (rows, whole))
                yield case(w, f32(n_tokens, whole), tolerance=ROUNDED[t.name])
    for k in (1, 8, 33, 100):  # rows that the vector width does not divide
        yield case(f32(5, k), f32(1, k))
        yield case(TensorType(dtypes.F16, (19, k)), f32(6, k))
    for t in KINDS_OF_BLOCKS:
        k = whole_blocks(t, 64)
        for n_tokens in (1, 5, 33):
            yield case(TensorType(t, (4, 20, k)), f32(n_tokens, 4, k), tolerance=ROUNDED[t.name])
        for n_tokens in (1, 5):
            yield case(TensorType(t, (70, k)), f32(n_tokens, k), rows=(3, 40), tolerance=ROUNDED[t.name])
    yield case(TensorType(dtypes.F16, (4, 12, 33)), f32(5, 4, 33))
    for t in dtypes.KV_TYPES:
        yield case(TensorType(t, (2, 20, 64)), f32(1, 6, 64))
        yield case(TensorType(t, (2, 20, 64)), f32(5, 6, 64))


@op(Op.MUL_MAT_ID, rowwise=True, product=("w",), chosen_by="ids")
def mul_mat_id(w: Tensor, x: Tensor, ids: Tensor) -> TensorType:
    """y[t, u] = w[ids[t, u]] · x[t, u mod x.shape[1]]; ids outside the range give zero rows"""
    fits = len(w.shape) == len(x.shape) == 3 and len(ids.shape) == 2
    fits = fits and w.shape[2] == x.shape[2] and x.shape[1] in (1, ids.shape[1])
    require(fits, "mul_mat_id: {} does not fit {} and ids {}", w, x, ids)
    return f32(*ids.shape, w.shape[1])


@mul_mat_id.reference
def _(w: Array, x: Array, ids: Array) -> Array:
    out = np.zeros((*ids.shape, w.shape[1]), np.float32)
    for t, u in np.argwhere((ids >= 0) & (ids < len(w))):
        out[t, u] = w[ids[t, u]] @ x[t, u % x.shape[1]]
    return out


@mul_mat_id.flops
def _(w: TensorType, x: TensorType, ids: TensorType) -> int:
    return 2 * ids.numel * w.shape[1] * w.shape[2]


@mul_mat_id.nbytes
def _(w: TensorType, x: TensorType, ids: TensorType) -> int:
    used = min(ids.numel, w.shape[0])  # experts read at most
    return w.nbytes // w.shape[0] * used + x.nbytes + ids.nbytes + 4 * ids.numel * w.shape[1]


mul_mat_id.draw(w=WEIGHT)


@mul_mat_id.cases
def _() -> Iterator[Case]:
    for t in KINDS_OF_BLOCKS:
        for n_tokens in (1, 2, 33):
            k = whole_blocks(t, 64)
            w, ids = TensorType(t, (6, 24, k)), i32(n_tokens, 2)
            yield case(w, f32(n_tokens, 1, k), ids, ints={2: (-1, 7)}, tolerance=ROUNDED[t.name])
            yield case(w, f32(n_tokens, 2, k), ids, ints={2: (0, 6)}, tolerance=ROUNDED[t.name])
        for types, ints in _uneven(t):
            yield case(*types, ints={2: ints}, tolerance=ROUNDED[t.name])


def _uneven(t: dtypes.DType) -> Iterator[tuple[tuple[TensorType, TensorType, TensorType], tuple[int, int]]]:
    """w, x, ids and the range of ids: all pairs on one expert, experts without any, odd counts of rows."""
    k = whole_blocks(t, 96)
    for n_tokens in (2, 7, 33):
        for used in (1, 4):
            w, ids = TensorType(t, (5 if n_tokens > 2 else 4, 37, k)), i32(n_tokens, used)
            yield (w, f32(n_tokens, 1, k), ids), (3, 4)
            yield (w, f32(n_tokens, used, k), ids), (1, 4)
    small, long = whole_blocks(t, 32), whole_blocks(t, 544)
    yield (TensorType(t, (12, 7, small)), f32(9, 1, small), i32(9, 4)), (-2, 14)
    yield (TensorType(t, (3, 64, long)), f32(130, 2, long), i32(130, 2)), (-1, 3)
    yield (TensorType(t, (3, 32, small)), f32(5, 1, small), i32(5, 2)), (3, 4)  # none at all


@op(Op.MOE_FUSED_UP_GATE, rowwise=True, product=("up", "gate"), chosen_by="ids")
def moe_fused_up_gate(up: Tensor, gate: Tensor, x: Tensor, ids: Tensor, *, kind: str) -> TensorType:
    """y[t, u] = kind(gate[e] · x[t]) · (up[e] · x[t]), e = ids[t, u]; ids outside the range give zero rows"""
    fits = up.type == gate.type and len(up.shape) == len(x.shape) == 3 and len(ids.shape) == 2
    fits = fits and up.shape[2] == x.shape[2] and x.shape[1] in (1, ids.shape[1])
    require(fits, "moe_fused_up_gate: {}, {}, {} and ids {} do not fit", up, gate, x, ids)
    return f32(*ids.shape, up.shape[1])


@moe_fused_up_gate.reference
def _(up: Array, gate: Array, x: Array, ids: Array, *, kind: str) -> Array:
    product = mul_mat_id.evaluate
    return as_f32(UNARY[kind](product(gate, x, ids)) * product(up, x, ids))


@moe_fused_up_gate.flops
def _(up: TensorType, gate: TensorType, x: TensorType, ids: TensorType, *, kind: str) -> int:
    return 4 * ids.numel * up.shape[1] * up.shape[2]


@moe_fused_up_gate.nbytes
def _(up: TensorType, gate: TensorType, x: TensorType, ids: TensorType, *, kind: str) -> int:
    used = min(ids.numel, up.shape[0])
    return (
        (up.nbytes + gate.nbytes) // up.shape[0] * used + x.nbytes + ids.nbytes + 4 * ids.numel * up.shape[1]
    )


moe_fused_up_gate.draw(up=WEIGHT, gate=WEIGHT)


@moe_fused_up_gate.cases
def _() -> Iterator[Case]:
    for t in KINDS_OF_BLOCKS:
        for n_tokens in (1, 2, 33):
            k = whole_blocks(t, 64)
            w = TensorType(t, (6, 24, k))
            tolerance = max(ROUNDED[t.name] * 3, 1e-9)
            for rows in (1, 2):
                x, ids = f32(n_tokens, rows, k), i32(n_tokens, 2)
                yield case(w, w, x, ids, ints={3: (-1, 7)}, kind="silu", tolerance=tolerance)
        for (w, x, ids), ints in _uneven(t):
            yield case(w, w, x, ids, ints={3: ints}, kind="silu", tolerance=tolerance)


@op(Op.ADD_ID, rowwise=True, named_by_weight=False)
def add_id(x: Tensor, b: Tensor, ids: Tensor) -> TensorType:
    """y[t, u] = x[t, u] + b[ids[t, u]]: the bias of each chosen expert; none for ids outside the range"""
    require(len(b.shape) == 2 and len(x.shape) == 3, "add_id: {} does not fit {}", b, x)
    require(b.shape[-1] == x.shape[-1] and ids.shape == x.shape[:-1], "add_id: {} does not fit {}", b, x)
    return x.type


@add_id.reference
def _(x: Array, b: Array, ids: Array) -> Array:
    inside = (ids >= 0) & (ids < len(b))
    return as_f32(np.where(inside[..., None], x + b[np.where(inside, ids, 0)], x))


@add_id.flops
def _(x: TensorType, b: TensorType, ids: TensorType) -> int:
    return x.numel


@add_id.cases
def _() -> Iterator[Case]:
    yield case(f32(3, 2, 40), f32(5, 40), i32(3, 2), ints={2: (0, 5)})
    yield case(f32(9, 4, 64), f32(5, 64), i32(9, 4), ints={2: (-1, 7)})


@several(Op.MUL_MAT_QKV, product=("q", "k", "v"))
def mul_mat_qkv(x: Tensor, q: Tensor, k: Tensor, v: Tensor | None = None) -> tuple[Tensor, ...]:
    """Products of x with two or three matrices of one type"""
    weights = (q, k) if v is None else (q, k, v)
    require(len({w.dtype for w in weights}) == 1, "mul_mat_qkv: types of {} and {} differ", q, k)
    return tuple(mul_mat(w, x) for w in weights)


mul_mat_qkv.draw(q=WEIGHT, k=WEIGHT, v=WEIGHT)


@mul_mat_qkv.cases
def _() -> Iterator[Case]:
    for t in WEIGHT_TYPES:
        k = whole_blocks(t, 64)
        three = (TensorType(t, (rows, k)) for rows in (37, 16, 5))
        yield case(f32(1, k), *three, tolerance=ROUNDED[t.name])
    for t in KINDS_OF_BLOCKS:
        k = whole_blocks(t, 288)
        yield case(f32(1, k), *(TensorType(t, (n, k)) for n in (48, 130)), tolerance=ROUNDED[t.name])


@several(Op.MUL_MAT_UP_GATE, product=("up", "gate"))
def mul_mat_up_gate(up: Tensor, gate: Tensor, x: Tensor, *, kind: str) -> tuple[Tensor, ...]:
    """y[t] = kind(gate · x[t]) · (up · x[t]); kind relu2 is relu(x)²"""
    require(up.type == gate.type and len(up.shape) == 2, "mul_mat_up_gate: {} and {} differ", up, gate)
    gated = mul_mat(gate, x)
    if kind == "relu2":
        return (mul(sqr(unary(gated, kind="relu")), mul_mat(up, x)),)
    return (fused_mul_unary(gated, mul_mat(up, x), kind=kind),)


@mul_mat_up_gate.nbytes
def _(up: TensorType, gate: TensorType, x: TensorType, *, kind: str) -> int:
    """Of several tokens gate and up are written and read; of one they are nothing beside the matrices."""
    result = 4 * int(x.shape[0]) * int(up.shape[0])
    return up.nbytes + gate.nbytes + x.nbytes + 5 * result


mul_mat_up_gate.draw(up=WEIGHT, gate=WEIGHT)


@mul_mat_up_gate.cases
def _() -> Iterator[Case]:
    for t in KINDS_OF_BLOCKS:
        for n_tokens in (1, 5):
            for kind in ("silu", "gelu", "relu", "relu2"):
                k = whole_blocks(t, 288)
                w, tolerance = TensorType(t, (37, k)), max(ROUNDED[t.name] * 3, 1e-9)
                yield case(w, w, f32(n_tokens, k), kind=kind, tolerance=tolerance)
