"""Launches of streams.cu: hyper-connections."""

from graphsched.backends.cuda.families.dense import contiguous
from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.lowering import At, Low
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Out
from graphsched.types import dtypes


def hc_weights(
    x: Address, scale: Address, base: Address, y: Address, rows: int, n: int, rounds: int, eps: float
) -> Call:
    """Weights of n streams of each dense row."""
    return Call("streams", (), "hc_weights", (up(rows, 64),), 64, (x, scale, base, y, rows, n, rounds, eps))


@ops.hc_weights.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, scale, base = map(low.operand, node.sources)
    x, y, a = contiguous(low, x), low.result(node), node.attrs

    def make(at: At) -> list[Call]:
        rows = at.n(node.shape[0])
        return [hc_weights(at(x), at(scale), at(base), at(y), rows, a["n"], a["rounds"], a["eps"])]

    low.launch(make, x, scale, base, Out(y))
