"""Products of one x with several matrices of one type in one launch: QKV; gate and up with their activation."""

from math import inf

from graphsched.backends.cuda.families.activations import (
    AS_FLOATS,
    INT8_BLOCKS,
    INT8_ROWS,
    Forms,
    int8_blocks,
    reads_x,
)
from graphsched.backends.cuda.families.elementwise import broadcast
from graphsched.backends.cuda.families.matmul import matvec_fused, matvec_fused_floats, up_gate_floats
from graphsched.backends.cuda.families.moe import up_gate
from graphsched.backends.cuda.families.products import float_rows, ternary
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.fused import takes_whole
from graphsched.backends.cuda.launch.lowering import At, Low, strides
from graphsched.backends.cuda.launch.weights import BLOCKS, TYPES, is_tiled, kind_of
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

F32 = (dtypes.F32,)


def _reads(low: Low, node: Tensor) -> Forms:
    """Any of the matrices tells: they have one type."""
    w = node.sources[1].type
    return {INT8_ROWS if is_tiled(w) else INT8_BLOCKS if w.dtype in BLOCKS else AS_FLOATS: inf}


@ops.mul_mat_qkv.lowering("cuda", when=takes_whole, x=F32, q=TYPES)
@reads_x(_reads)
def _(low: Low, node: Tensor) -> None:
    x, *matrices = node.sources
    weights, results = [*map(low.operand, matrices)], low.results(node)
    pairs, first = list(zip(weights, results, strict=True)), weights[0].type
    if is_tiled(first):
        ternary(low, x, pairs)
        return
    kind, k, sms = kind_of(first.dtype), int(x.shape[1]), low.sms
    inputs = _inputs(low, x, first.dtype)

    def make(at: At) -> list[Call]:
        matrices_of_x = [(at(w), at(y), int(w.type.shape[0])) for w, y in pairs]
        if len(inputs) == 2:
            return [matvec_fused(kind, matrices_of_x, at(inputs[0]), at(inputs[1]), k, sms)]
        return [matvec_fused_floats(kind, matrices_of_x, at(inputs[0]), k, sms)]

    low.launch(make, *weights, *inputs, *map(Out, results))


def _inputs(low: Low, x: Tensor, weights: DType) -> tuple[Operand, ...]:
    """What mat-vecs read of x: int8 blocks and their scales, or floats."""
    return int8_blocks(low, x) if weights in BLOCKS else (float_rows(low, x, int(x.shape[1])),)


@ops.mul_mat_up_gate.lowering("cuda", when=takes_whole, up=TYPES, x=F32)
@reads_x(_reads)
def _(low: Low, node: Tensor) -> None:
    up, gate, y, how = *map(low.operand, node.sources[:2]), low.result(node), node.attrs["kind"]
    x, kind, (rows, k), sms = node.sources[2], kind_of(up.type.dtype), map(int, up.type.shape), low.sms
    if is_tiled(up.type):
        _ternary_up_gate(low, node, up, gate, y)
        return
    inputs = _inputs(low, x, up.type.dtype)

    def make(at: At) -> list[Call]:
        if len(inputs) == 2:
            q, ds = map(at, inputs)
            return [up_gate(kind, at(up), at(gate), None, q, ds, at(y), (1, 1, 1), rows, k, how, sms)]
        return [up_gate_floats(kind, at(up), at(gate), at(inputs[0]), at(y), rows, k, how, sms)]

    low.launch(make, up, gate, *inputs, Out(y))


def _ternary_up_gate(low: Low, node: Tensor, up: Operand, gate: Operand, y: Operand) -> None:
    """Any number of tokens: both products, then the activation."""
    gated, kernel = low.scratch("gate", node.type), f"{node.attrs['kind']}_mul"
    ternary(low, node.sources[2], [(gate, gated), (up, y)])
    per_operand = (strides(gated),) * 3
    low.launch(
        lambda at: [broadcast(kernel, at(gated), at(y), at(y), at.shape(node.type), per_operand)],
        gated,
        y,
        Out(y),
    )
