"""Launches of moe.cu: routing and the routed experts."""

from graphsched.backends.cuda.call import Call, Operand, threads
from graphsched.backends.cuda.layout import KERNEL_TYPE
from graphsched.backends.cuda.matmul import BLOCK, blocks, split_of, steps_of
from graphsched.errors import ShapeError


def route(
    logits: Operand,
    bias: Operand,
    ids: Operand,
    weights: Operand,
    tokens: int,
    n_expert: int,
    used: int,
    mode: str = "softmax",
    normalise: bool = True,
    by: float = 1.0,
) -> Call:
    """Top-k experts of each token; mode: softmax, sigmoid, or softmax_of_chosen."""
    if n_expert > 512 or used > 32 or used > n_expert:
        raise ShapeError(f"route: {used} of {n_expert} experts; at most 32 of 512")
    m = ("softmax", "sigmoid", "softmax_of_chosen").index(mode)
    args = (logits, bias, ids, weights, n_expert, used, m, int(normalise), by)
    return Call("moe", (), "route", (tokens,), 32, args)


def group(ids: Operand, order: Operand, starts: Operand, slots: int, n_expert: int) -> Call:
    """Slots sorted by expert: order int32[slots], starts int32[n_expert + 2]; for gemm.gemm_q8_id."""
    if n_expert > 1023:
        raise ShapeError(f"group: {n_expert} experts; at most 1023")
    return Call("moe", (), "group", (1,), threads(n_expert + 1), (ids, order, starts, slots, n_expert))


def matvec_id(
    kind: str,
    w: Operand,
    ids: Operand,
    q: Operand,
    ds: Operand,
    y: Operand,
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
    w_up: Operand,
    w_gate: Operand,
    ids: Operand,
    q: Operand,
    ds: Operand,
    y: Operand,
    shape: tuple[int, int, int],
    rows: int,
    k: int,
    activation: str = "silu",
    sms: int = 132,
) -> Call:
    """y[t, e] = f(gate · x) · (up · x) of expert ids[t, e]; ids None: dense, used = 1."""
    tokens, used, n_expert = shape
    t, split = KERNEL_TYPE[kind], split_of(2 * rows * used, steps_of(kind, k), sms)
    how = ("silu", "gelu", "relu2").index(activation)
    args = (w_up, w_gate, ids, q, ds, y, n_expert, rows, k, how, split)
    return Call("moe", (t,), f"up_gate_{t}", (blocks(rows, split, 1), used, tokens), BLOCK, args)
