"""Expert routing kernels."""

from collections.abc import Callable

from graphsched import ops
from graphsched.backends.cpu.jit import kernel
from graphsched.backends.cpu.lowering import Low, rows_of
from graphsched.backends.cpu.program import Out
from graphsched.backends.cpu.simd import get, put
from graphsched.backends.cpu.steps import arg, rows, share
from graphsched.backends.cpu.vector import F32, I32
from graphsched.tensor import Tensor


@kernel
def top_k_f32() -> Callable[..., None]:
    """Insertion into a list of the k best: most elements fail the first comparison."""

    def top_k(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, k = arg(step, 0), arg(step, 1), arg(step, 2), arg(step, 3)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            src, ids = x + 4 * n * r, y + 4 * k * r
            for i in range(n):
                value = get(src + 4 * i, F32)
                at = i if i < k else k
                if at == k and not value > get(src + 4 * get(ids + 4 * (k - 1), I32), F32):
                    continue
                if at == k:
                    at = k - 1
                while at > 0 and value > get(src + 4 * get(ids + 4 * (at - 1), I32), F32):
                    put(ids + 4 * at, get(ids + 4 * (at - 1), I32), I32)
                    at -= 1
                put(ids + 4 * at, i, I32)

    return top_k


@ops.top_k.lowering("cpu", when=lambda node: len(node.shape) == 2)
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    if not x.is_contiguous:
        raise AssertionError("routing scores are dense")
    low.step(top_k_f32(), x, Out(low.result(node)), x.type.shape[1], node.shape[1], rows=rows_of(node.type))
