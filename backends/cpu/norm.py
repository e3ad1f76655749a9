"""Normalisation kernels."""

from collections.abc import Callable
from typing import Any

import numpy as np

from graphsched.backends.cpu.elementwise import row_sum
from graphsched.backends.cpu.language.jit import helper, kernel
from graphsched.backends.cpu.language.lanes import fold_lanes, for_lanes, load_lanes, load_or, store_lanes
from graphsched.backends.cpu.language.simd import (
    add,
    fma,
    mul,
    splat,
    sqrt,
    sub,
    sum_lanes,
)
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.kernel_args import arguments, row_at, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides
from graphsched.graph.ops import fused_add_rms_norm, fused_norm, fused_rms_norm, l2_norm, layer_norm, rms_norm
from graphsched.graph.tensor import Tensor


@helper
def squares(src: int, n: int) -> Any:
    """Lanes of the sum of a row's squares."""
    return add_squares(n, splat(0.0, 16), src)


@fold_lanes(16)
def add_squares(i: int, block: Any, acc: Any, src: int) -> Any:
    """Adds squares to lanes; called with (n, acc, src)."""
    v = load_lanes(src + 4 * i, F32, block)
    return fma(v, v, acc)


@helper
def norm_row(src: int, w: int, dst: int, n: int, acc: Any, eps: float, weighted: int) -> None:
    """A row over the root of its mean square, times the weights if there are any."""
    weigh_row(n, src, w, dst, splat(1.0 / sqrt(sum_lanes(acc) / n + eps), 16), weighted)


@for_lanes(16)
def weigh_row(i: int, block: Any, src: int, w: int, dst: int, factor: Any, weighted: int) -> None:
    """dst = src · factor, times w if it is weighted; called with (n, src, ...)."""
    v = mul(load_lanes(src + 4 * i, F32, block), factor)
    if weighted:
        v = mul(load_lanes(w + 4 * i, F32, block), v)
    store_lanes(dst + 4 * i, v, F32, block)


@fold_lanes(16)
def add_rows(i: int, block: Any, acc: Any, a: int, b: int, total: int) -> Any:
    """total = a + b; adds its squares to the lanes of acc. Called with (n, acc, a, ...)."""
    v = add(load_lanes(a + 4 * i, F32, block), load_lanes(b + 4 * i, F32, block))
    store_lanes(total + 4 * i, v, F32, block)
    return fma(v, v, acc)


@kernel("x w? -> y | n heads x_token x_head | eps")
def rms_norm_f32(weighted: int) -> Callable[..., None]:
    """y[r] = x[r] / sqrt(mean(x[r]²) + eps), times w if it is weighted; rows of n floats."""

    def rms(step: int, run: int, ith: int, nth: int) -> None:
        x, w, y, n, heads, x_token, x_head, eps = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            src = row_at(x, r, heads, x_token, x_head)
            norm_row(src, w, y + r * n * 4, n, squares(src, n), eps, weighted)

    return rms


@rms_norm.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    x, n, eps = low.operand(node.sources[0]), node.shape[-1], node.attrs["eps"]
    y = low.result(node, in_place_of=node.sources)
    low.step(rms_norm_f32(0), x=x, y=y, n=n, **row_strides(x=x), eps=eps, over=node.type)


@fused_rms_norm.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    (x, w), n, eps = map(low.operand, node.sources), node.shape[-1], node.attrs["eps"]
    y = low.result(node, in_place_of=node.sources[:1])
    low.step(rms_norm_f32(1), x=x, w=w, y=y, n=n, **row_strides(x=x), eps=eps, over=node.type)


@kernel("x -> y | n heads x_token x_head | eps")
def l2_norm_f32() -> Callable[..., None]:
    """y[r] = x[r] / sqrt(Σ x[r]² + eps), rows of n floats."""

    def l2(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, heads, x_token, x_head, eps = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            src = row_at(x, r, heads, x_token, x_head)
            weigh_row(n, src, 0, y + 4 * r * n, splat(1.0 / sqrt(sum_lanes(squares(src, n)) + eps), 16), 0)

    return l2


@l2_norm.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    x, n, eps = low.operand(node.sources[0]), node.shape[-1], node.attrs["eps"]
    y = low.result(node, in_place_of=node.sources)
    low.step(l2_norm_f32(), x=x, y=y, n=n, **row_strides(x=x), eps=eps, over=node.type)


@kernel("x w? -> y | n heads x_token x_head | eps")
def layer_norm_f32(weighted: int) -> Callable[..., None]:
    """y[r] = (x[r] - mean) / sqrt(variance + eps), times w if it is weighted; rows of n floats."""

    def norm(step: int, run: int, ith: int, nth: int) -> None:
        x, w, y, n, heads, x_token, x_head, eps = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            src, dst = row_at(x, r, heads, x_token, x_head), y + 4 * r * n
            acc = centre_row(n, splat(0.0, 16), src, dst, row_sum(src, n) / n)
            norm_row(dst, w, dst, n, acc, eps, weighted)

    return norm


@fold_lanes(16)
def centre_row(i: int, block: Any, acc: Any, src: int, dst: int, mean: float) -> Any:
    """dst = src - mean; adds its squares to the lanes of acc. Called with (n, acc, src, ...)."""
    v = sub(load_or(src + 4 * i, block, np.float32(mean)), splat(mean, 16))
    store_lanes(dst + 4 * i, v, F32, block)
    return fma(v, v, acc)


@layer_norm.lowering("cpu", strided=("x",))
@fused_norm.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    (x, *w), n, eps = map(low.operand, node.sources), node.shape[-1], node.attrs["eps"]
    y = low.result(node, in_place_of=node.sources[:1])
    kernel, weight = layer_norm_f32(len(w)), w[0] if w else None
    low.step(kernel, x=x, w=weight, y=y, n=n, **row_strides(x=x), eps=eps, over=node.type)


@kernel("a b w -> s y | n a_row b_row | eps")
def add_rms_norm_f32() -> Callable[..., None]:
    """s = a + b, y = w · s / rms(s), row by row: squares are summed as the sums are made."""

    def add_rms(step: int, run: int, ith: int, nth: int) -> None:
        a, b, w, s, y, n, a_row, b_row, eps = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            pa, pb, total = a + r * a_row, b + r * b_row, s + 4 * r * n
            acc = add_rows(n, splat(0.0, 16), pa, pb, total)
            norm_row(total, w, y + 4 * r * n, n, acc, eps, 1)

    return add_rms


@fused_add_rms_norm.lowering("cpu", strided=("x", "y"), when=lambda node: len(node.sources[0].shape) == 2)
def _(low: Low, node: Tensor) -> None:
    a, b, w = map(low.operand, node.sources)
    s, y = low.results(node, in_place_of=node.sources[:2])
    low.step(
        add_rms_norm_f32(),
        a=a,
        b=b,
        w=w,
        s=s,
        y=y,
        n=y.type.shape[-1],
        a_row=a.strides[0],
        b_row=b.strides[0],
        eps=node.attrs["eps"],
        over=y.type,
    )
