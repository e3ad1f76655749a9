"""Launches of moe.cu: routing and the routed experts."""

from dataclasses import dataclass
from math import inf

from graphsched.backends.cuda.families.activations import (
    AS_FLOATS,
    INT8_BLOCKS,
    Forms,
    int8_blocks,
    reads_x,
)
from graphsched.backends.cuda.families.dense import contiguous
from graphsched.backends.cuda.families.elementwise import add_id, broadcast, weighted_sum
from graphsched.backends.cuda.families.gemm import gemm_q8_id
from graphsched.backends.cuda.families.matmul import BLOCK, FLOATS, blocks, split_of, steps_of
from graphsched.backends.cuda.families.rows import top_k as top_k_rows
from graphsched.backends.cuda.launch.call import Address, Call, threads, up
from graphsched.backends.cuda.launch.fused import ACTIVATIONS, MOST_GROUPS, MOST_USED, TOP_MOST, takes_whole
from graphsched.backends.cuda.launch.layout import KERNEL_TYPE
from graphsched.backends.cuda.launch.lowering import At, Low
from graphsched.backends.cuda.launch.weights import BLOCKS, TYPES, kind_of, row_bytes
from graphsched.errors import ShapeError
from graphsched.graph import ops
from graphsched.graph.ops.moe import GATINGS
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.operand import Operand, Out, dense
from graphsched.types import dtypes


@dataclass(frozen=True)
class Routing:
    """How experts are chosen, as ops.topk_moe takes it; least: what the sum of the weights is at least, if they are
    divided by it."""

    gating: str = "softmax"
    n_group: int = 1
    n_group_used: int = 1
    least: float | None = None
    by: float = 1.0


def route(
    logits: Address,
    bias: Address,
    ids: Address,
    weights: Address,
    tokens: int,
    n_expert: int,
    used: int,
    how: Routing,
) -> Call:
    """Experts of each token and their weights."""
    if n_expert > TOP_MOST or used > min(MOST_USED, n_expert) or how.n_group > MOST_GROUPS:
        raise ShapeError(f"route: {used} of {n_expert} experts; at most {MOST_USED} of {TOP_MOST}")
    groups = (how.n_group, how.n_group_used) if how.n_group > 1 else (0, 0)
    normalised = int(how.least is not None), float(how.least or 0.0)
    args = (
        logits,
        bias,
        ids,
        weights,
        n_expert,
        used,
        GATINGS.index(how.gating),
        *groups,
        *normalised,
        how.by,
    )
    return Call("moe", (), "route", (tokens,), 32, args)


def group(ids: Address, order: Address, starts: Address, slots: int, n_expert: int) -> Call:
    """Slots sorted by expert: order int32[slots], starts int32[n_expert + 2]; for gemm.gemm_q8_id."""
    if n_expert > 1023:
        raise ShapeError(f"group: {n_expert} experts; at most 1023")
    return Call("moe", (), "group", (1,), threads(n_expert + 1), (ids, order, starts, slots, n_expert))


def matvec_id(
    kind: str,
    w: Address,
    ids: Address,
    q: Address,
    ds: Address,
    y: Address,
    shape: tuple[int, int, int],
    rows: int,
    k: int,
    x_per_slot: bool,
    sms: int = 132,
) -> Call:
    """y[t, e] = w[ids[t, e]] · x; shape (tokens, used, n_expert); x per token or per slot."""
    tokens, used, n_expert = shape
    t, split = KERNEL_TYPE[kind], split_of(rows * used, steps_of(kind, k), sms)
    args = (w, ids, q, ds, y, n_expert, rows, k, int(x_per_slot), split)
    return Call("moe", (t,), f"matvec_id_{t}", (blocks(rows, split), used, tokens), BLOCK, args)


def up_gate(
    kind: str,
    w_up: Address,
    w_gate: Address,
    ids: Address,
    q: Address,
    ds: Address,
    y: Address,
    shape: tuple[int, int, int],
    rows: int,
    k: int,
    activation: str = "silu",
    sms: int = 132,
) -> Call:
    """y[t, e] = f(gate · x) · (up · x) of expert ids[t, e]; ids None: dense, used = 1."""
    tokens, used, n_expert = shape
    t = KERNEL_TYPE[kind]
    split = split_of(rows * used, steps_of(kind, k), sms)  # as of one alone: the same bits
    how = ACTIVATIONS.index(activation)
    args = (w_up, w_gate, ids, q, ds, y, n_expert, rows, k, how, split)
    return Call("moe", (t,), f"up_gate_{t}", (blocks(rows, split, 1), used, tokens), BLOCK, args)


def matvec_id_floats(
    kind: str,
    w: Address,
    ids: Address,
    x: Address,
    y: Address,
    shape: tuple[int, int, int],
    rows: int,
    k: int,
    x_strides: tuple[int, int],
    sms: int = 132,
) -> Call:
    """matvec_id for F32, F16, BF16 weights and float activations; x_strides of tokens and slots, in floats."""
    tokens, used, n_expert = shape
    pitch = up(k, FLOATS[kind])
    split = split_of(rows * used, pitch, sms)
    args = (w, ids, x, y, n_expert, rows, k, pitch, *x_strides, split)
    return Call("floats", (kind,), f"matvec_id_{kind}", (blocks(rows, split), used, tokens), BLOCK, args)


# ---- lowered

GROUP_FROM = 16  # tokens from which slots are sorted by expert and multiplied as matrices
FUSED = ("silu", "gelu", "relu", "sigmoid")
WIDEST_ROW = 1023  # experts that group() sorts by


def _ready(node: Tensor) -> bool:
    return node.sources[0].kind in ("weight", "copy")


def _grouped(low: Low, ids: Tensor, n_expert: int) -> tuple[Operand, Operand]:
    """Slots sorted by expert, once for all products with these ids."""

    def sort() -> tuple[Operand, ...]:
        slots, experts = ids.type.numel, low.operand(ids)
        order = low.scratch("slots by expert", TensorType(dtypes.I32, (slots,)))
        starts = low.scratch("expert starts", TensorType(dtypes.I32, (n_expert + 2,)))

        def make(at: At) -> list[Call]:
            tokens, _, used = at.shape(ids.type)
            few = tokens < GROUP_FROM
            return [] if few else [group(at(experts), at(order), at(starts), tokens * used, n_expert)]

        low.launch(make, experts, Out(order), Out(starts))
        return order, starts

    order, starts = low.shared(("by expert", ids), sort)
    return order, starts


def _product(low: Low, w: Operand, x: Tensor, ids: Tensor, y: Operand) -> None:
    """y[t, u] = w[ids[t, u]] · x[t, u or 0]."""
    if w.type.dtype in BLOCKS:
        _product_of_blocks(low, w, x, ids, y)
    else:
        _product_of_floats(low, w, x, ids, y)


def _product_of_blocks(low: Low, w: Operand, x: Tensor, ids: Tensor, y: Operand) -> None:
    (n_expert, rows, k), kind, sms = w.type.shape, kind_of(w.type.dtype), low.sms
    (q, ds), experts, per_slot = int8_blocks(low, x), low.operand(ids), x.shape[1] > 1
    sorts = int(ids.shape[0]) >= GROUP_FROM and n_expert <= WIDEST_ROW
    by_expert = _grouped(low, ids, n_expert) if sorts else ()

    def make(at: At) -> list[Call]:
        tokens, _, used = at.shape(ids.type)
        shape, inputs = (tokens, used, n_expert), (at(q), at(ds), at(y))
        if sorts and tokens >= GROUP_FROM:
            order, starts = map(at, by_expert)
            return [gemm_q8_id(kind, at(w), order, starts, *inputs, shape, rows, k, per_slot)]
        return [matvec_id(kind, at(w), at(experts), *inputs, shape, rows, k, per_slot, sms)]

    low.launch(make, w, q, ds, experts, *by_expert, Out(y))


def _product_of_floats(low: Low, w: Operand, x: Tensor, ids: Tensor, y: Operand) -> None:
    (n_expert, rows, k), kind, sms = w.type.shape, kind_of(w.type.dtype), low.sms
    experts, rows_of_x = low.operand(ids), contiguous(low, low.operand(x))
    x_strides = (k * int(x.shape[1]), k if x.shape[1] > 1 else 0)

    def make(at: At) -> list[Call]:
        tokens, _, used = at.shape(ids.type)
        shape = (tokens, used, n_expert)
        return [
            matvec_id_floats(kind, at(w), at(experts), at(rows_of_x), at(y), shape, rows, k, x_strides, sms)
        ]

    low.launch(make, w, rows_of_x, experts, Out(y))


def _rows_fit(node: Tensor) -> bool:
    w = node.sources[0]
    return _ready(node) and (w.dtype in BLOCKS or w.shape[-1] % 4 == 0)


def _reads(low: Low, node: Tensor) -> Forms:
    return {INT8_BLOCKS if node.sources[0].dtype in BLOCKS else AS_FLOATS: inf}


@ops.mul_mat_id.lowering("cuda", when=_rows_fit, w=TYPES, x=(dtypes.F32,))
@reads_x(_reads)
def _(low: Low, node: Tensor) -> None:
    w, x, ids = node.sources
    _product(low, low.operand(w), x, ids, low.result(node))


@ops.moe_fused_up_gate.lowering(
    "cuda", when=lambda node: _rows_fit(node) and node.attrs["kind"] in FUSED, up=TYPES, x=(dtypes.F32,)
)
@reads_x(_reads)
def _(low: Low, node: Tensor) -> None:
    up_w, gate_w, x, ids = node.sources
    up, gate, y, how = low.operand(up_w), low.operand(gate_w), low.result(node), node.attrs["kind"]
    if up.type.dtype in BLOCKS and int(ids.shape[0]) < GROUP_FROM and x.shape[1] == 1:
        _up_and_gate(low, up, gate, x, ids, y, how)
        return
    half = dense(low.scratch("gates", node.type).buffer, node.type)
    _product(low, gate, x, ids, half)
    _product(low, up, x, ids, y)
    strides = ((int(node.shape[1] * node.shape[2]), int(node.shape[2])),) * 3
    low.launch(
        lambda at: [broadcast(f"{how}_mul", at(half), at(y), at(y), at.shape(node.type), strides)],
        half,
        y,
        Out(y),
    )


def _up_and_gate(low: Low, up: Operand, gate: Operand, x: Tensor, ids: Tensor, y: Operand, how: str) -> None:
    """Few tokens, blocks: both products in one pass."""
    (q, ds), experts, (n_expert, rows, k) = int8_blocks(low, x), low.operand(ids), up.type.shape
    kind, sms = kind_of(up.type.dtype), low.sms

    def make(at: At) -> list[Call]:
        tokens, _, used = at.shape(ids.type)
        shape, inputs = (tokens, used, n_expert), (at(q), at(ds), at(y))
        return [up_gate(kind, at(up), at(gate), at(experts), *inputs, shape, rows, k, how, sms)]

    low.launch(make, up, gate, q, ds, experts, Out(y))


@ops.multi_add.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _weighted_sum(low, low.operand(node.sources[0]), None, low.result(node))


@ops.mul_multi_add.lowering("cuda", when=takes_whole, x=(dtypes.F32,), w=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, w = map(low.operand, node.sources)
    _weighted_sum(low, x, w, low.result(node))


def _weighted_sum(low: Low, x: Operand, w: Operand | None, y: Operand) -> None:
    """y[t] = Σ_u w[t, u] · x[t, u]; without w the sum."""
    x = contiguous(low, x)
    weights = [] if w is None else [contiguous(low, w)]

    def make(at: At) -> list[Call]:
        tokens, used, k = at.shape(x.type)
        return [weighted_sum(at(x), at(weights[0]) if weights else None, at(y), tokens, used, k)]

    low.launch(make, x, *weights, Out(y))


@ops.add_id.lowering("cuda", x=(dtypes.F32,), b=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, b, ids = map(low.operand, node.sources)
    x, y = contiguous(low, x), low.result(node)
    n_expert, k = map(int, b.type.shape)
    row = row_bytes(b.type) // 4 if node.sources[1].kind in ("weight", "copy") else k
    low.launch(
        lambda at: [add_id(at(x), at(b), at(ids), at(y), at.shape(node.type), n_expert, row)],
        x,
        b,
        ids,
        Out(y),
    )


def _top(low: Low, node: Tensor, groups: int = 0, groups_used: int = 0) -> None:
    x, y, k = contiguous(low, low.operand(node.sources[0])), low.result(node), node.attrs["k"]

    def make(at: At) -> list[Call]:
        n, heads, width = at.shape(x.type)
        return [top_k_rows(at(x), at(y), n * heads, width, k, groups, groups_used)]

    low.launch(make, x, Out(y))


@ops.top_k.lowering("cuda", when=lambda node: node.sources[0].shape[-1] <= TOP_MOST, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _top(low, node)


def _few_groups(node: Tensor) -> bool:
    return node.sources[0].shape[-1] <= TOP_MOST and node.attrs["n_group"] <= MOST_GROUPS


@ops.grouped_top_k.lowering("cuda", when=_few_groups, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _top(low, node, node.attrs["n_group"], node.attrs["n_group_used"])


@ops.topk_moe.lowering("cuda", when=takes_whole, logits=(dtypes.F32,), bias=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    (logits, *bias), a = map(low.operand, node.sources), dict(node.attrs)
    logits, (ids, weights) = contiguous(low, logits), low.results(node)
    (tokens, n_expert), used = node.sources[0].shape, a.pop("k")
    how = Routing(**a)

    def make(at: At) -> list[Call]:
        by = at(bias[0]) if bias else None
        return [route(at(logits), by, at(ids), at(weights), at.n(tokens), int(n_expert), used, how)]

    low.launch(make, logits, *bias, Out(ids), Out(weights))
