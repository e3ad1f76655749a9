"""Hyper-connections: weights of streams by token, whose mixing matrix is made doubly stochastic."""

import math
from collections.abc import Callable

from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.simd import get, put
from graphsched.backends.cpu.language.soft_max import ONE, ZERO
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, rows, share
from graphsched.backends.cpu.program.lowering import Low
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor


@kernel("x scale base -> y | n rounds | eps")
def hc_weights_f32() -> Callable[..., None]:
    """y = [read | write | mixing matrix, [to, from]] of each row."""

    def weights(step: int, run: int, ith: int, nth: int) -> None:
        x, scale, base, y, n, rounds, eps = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        width = n * (n + 2)
        for r in range(first, last):
            src, dst = x + 4 * r * width, y + 4 * r * width
            for i in range(2 * n):
                s = get(src + 4 * i, F32) * get(scale + 4 * (i // n), F32) + get(base + 4 * i, F32)
                gate = ONE / (ONE + math.exp(-s))
                put(dst + 4 * i, gate + eps if i < n else gate + gate, F32)
            soft_max_to(src + 8 * n, scale, base + 8 * n, dst + 8 * n, n, eps)
            divide(dst + 8 * n, n, 1, n, eps)
            for _ in range(rounds - 1):
                divide(dst + 8 * n, n, n, 1, eps)
                divide(dst + 8 * n, n, 1, n, eps)

    return weights


@helper
def soft_max_to(x: int, scale: int, base: int, y: int, n: int, eps: float) -> None:
    """softmax over `to` of x [from, to] · scale + base, plus eps, as [to, from]."""
    for a in range(n):
        top = get(x + 4 * a * n, F32) * get(scale + 8, F32) + get(base + 4 * a * n, F32)
        for b in range(n):
            top = max(
                top, get(x + 4 * (a * n + b), F32) * get(scale + 8, F32) + get(base + 4 * (a * n + b), F32)
            )
        total = ZERO
        for b in range(n):
            s = get(x + 4 * (a * n + b), F32) * get(scale + 8, F32) + get(base + 4 * (a * n + b), F32)
            p = ZERO + math.exp(s - top)
            put(y + 4 * (b * n + a), p, F32)
            total += p
        for b in range(n):
            put(y + 4 * (b * n + a), get(y + 4 * (b * n + a), F32) / total + eps, F32)


@helper
def divide(y: int, n: int, inner: int, outer: int, eps: float) -> None:
    """Divides each line of an n · n matrix by its sum; elements of a line are `inner` apart, lines `outer`."""
    for a in range(n):
        total = eps
        for b in range(n):
            total += get(y + 4 * (a * outer + b * inner), F32)
        for b in range(n):
            at = y + 4 * (a * outer + b * inner)
            put(at, get(at, F32) / total, F32)


@ops.hc_weights.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    x, scale, base = map(low.operand, node.sources)
    a = node.attrs
    low.step(
        hc_weights_f32(),
        x=x,
        scale=scale,
        base=base,
        y=low.result(node),
        n=a["n"],
        rounds=a["rounds"],
        eps=a["eps"],
        over=node.type,
    )
