"""Rows, views and copies."""

from collections.abc import Callable

from graphsched.backends.cpu.formats.rows import NATIVE, READABLE, dequantize_row
from graphsched.backends.cpu.formats.writers import CACHE_TYPES, quantize_row
from graphsched.backends.cpu.language.jit import kernel
from graphsched.backends.cpu.language.simd import get, put
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.backends.cpu.program.copies import copy_rows_f32
from graphsched.backends.cpu.program.kernel_args import arguments, row_at, rows, share
from graphsched.backends.cpu.program.lowering import Low, row_strides, rows_of
from graphsched.backends.cpu.program.transfer import copy_share
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.operand import Operand, dense
from graphsched.types import dtypes


@kernel("x ids -> y | n heads x_token x_head")
def get_rows_to_f32(kind: int) -> Callable[..., None]:
    """y[t, h] = x[ids[t], h] as float32, rows of n elements of a type."""

    def get_rows(step: int, run: int, ith: int, nth: int) -> None:
        x, ids, y, n, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            row = x + get(ids + 4 * (r // heads), I32) * x_token + r % heads * x_head
            dequantize_row(kind, row, y + r * n * 4, n)

    return get_rows


@kernel("x ids -> y | n k")
def get_elements_f32() -> Callable[..., None]:
    """y[r, u] = x[r, ids[r, u]], k of n floats for each row."""

    def get_elements(step: int, run: int, ith: int, nth: int) -> None:
        x, ids, y, n, k = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            for u in range(k):
                put(y + 4 * (r * k + u), get(x + 4 * (r * n + get(ids + 4 * (r * k + u), I32)), F32), F32)

    return get_elements


def _picks_elements(node: Tensor) -> bool:
    x, ids = node.sources
    return len(ids.shape) == 2 and len(x.shape) == 2


@ops.get_rows.lowering("cpu", when=lambda node: len(node.sources[1].shape) == 1, x=NATIVE)
def _(low: Low, node: Tensor) -> None:
    x, ids = map(low.operand, node.sources)
    y, kernel = low.result(node), get_rows_to_f32(x.type.dtype.id)
    low.step(kernel, x=x, ids=ids, y=y, n=node.shape[-1], **row_strides(x=x), rows=rows_of(node.type))


@ops.get_rows.lowering("cpu", when=_picks_elements, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, ids = map(low.operand, node.sources)
    y = low.result(node)
    low.step(get_elements_f32(), x=x, ids=ids, y=y, n=x.type.shape[-1], k=node.shape[-1], over=node.type)


@kernel("x ids -> y | n k x_token x_head")
def get_rows_by_token(kind: int) -> Callable[..., None]:
    """y[t, u] = x[t, ids[t, u]]"""

    def get_rows(step: int, run: int, ith: int, nth: int) -> None:
        x, ids, y, n, k, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for p in range(first, last):
            dequantize_row(kind, x + p // k * x_token + get(ids + 4 * p, I32) * x_head, y + p * n * 4, n)

    return get_rows


@ops.get_rows.lowering(
    "cpu", when=lambda node: len(node.shape) == 3 == len(node.sources[0].shape), strided=("x",), x=NATIVE
)
def _(low: Low, node: Tensor) -> None:
    x, ids = map(low.operand, node.sources)
    low.step(
        get_rows_by_token(x.type.dtype.id),
        x=x,
        ids=ids,
        y=low.result(node),
        n=node.shape[-1],
        k=node.shape[1],
        x_token=x.strides[0],
        x_head=x.strides[1],
        rows=rows_of(node.type),
    )


@ops.reshape.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    if len(x.type.shape) == 2 and len(node.shape) == 3:  # [T, n·d] -> [T, n, d] keeps the rows where they are
        strides = (x.strides[0], x.type.dtype.row_bytes(node.shape[2]), x.strides[-1])
        low.alias(node, Operand(x.buffer, node.type, strides, x.offset))
        return
    x = low.dense(x)
    low.alias(node, Operand(x.buffer, node.type, dense(x.buffer, node.type).strides, x.offset))


@ops.view.lowering("cpu", strided=("x",))
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    low.alias(
        node, Operand(x.buffer, node.type, x.strides, x.offset + x.type.dtype.offset_of(node.attrs["start"]))
    )


@ops.part.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    low.part(node)


@ops.permute.lowering("cpu", permuted=("x",))
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    strides = tuple(x.strides[a] for a in node.attrs["axes"])
    low.alias(node, Operand(x.buffer, node.type, strides, x.offset))


@ops.cont.lowering("cpu", strided=("x",), x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, n, y = low.operand(node.sources[0]), node.shape[-1], low.result(node)
    low.step(copy_rows_f32(), x=x, y=y, n=n, y_row=4 * n, **row_strides(x=x), over=node.type)


@kernel("x -> y | n heads x_token x_head")
def rows_to_f32(kind: int) -> Callable[..., None]:
    """y[r] = x[r] as float32, rows of n elements of a type."""

    def convert(step: int, run: int, ith: int, nth: int) -> None:
        x, y, n, heads, x_token, x_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            dequantize_row(kind, row_at(x, r, heads, x_token, x_head), y + r * n * 4, n)

    return convert


@ops.copy_f32.lowering("cpu", strided=("x",), x=READABLE)
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    kernel, y = rows_to_f32(x.type.dtype.id), low.result(node)
    low.step(kernel, x=x, y=y, n=node.shape[-1], **row_strides(x=x), over=node.type)


@ops.repeat.lowering("cpu", strided=("x",), x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, n = low.operand(node.sources[0]), node.shape[-1]
    strides = row_strides(x=x) | {"heads": node.shape[1], "x_head": 0}
    low.step(copy_rows_f32(), x=x, y=low.result(node), n=n, y_row=4 * n, **strides, over=node.type)


@ops.concat.lowering("cpu", strided=("a", "b"), a=(dtypes.F32,), b=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    y, offset = low.result(node), 0
    heads = int(node.shape[1]) if len(node.shape) == 3 else 1
    for source in node.sources:
        x, n = low.operand(source), source.shape[-1]
        type = TensorType(node.dtype, (*node.shape[:-1], n))
        place = Operand(y.buffer, type, y.strides, y.offset + offset)
        strides = row_strides(x=x) | {"heads": heads}
        if len(node.shape) == 3 and source.shape[1] == 1:  # all heads share it
            strides["x_head"] = 0
        low.step(copy_rows_f32(), x=x, y=place, n=n, y_row=4 * node.shape[-1], **strides, over=node.type)
        offset += 4 * n


@kernel("x ids -> cache | n heads x_token x_head cache_token cache_head")
def set_rows_from_f32(kind: int) -> Callable[..., None]:
    """Stores each head's row of n elements in its cell."""

    def set_rows(step: int, run: int, ith: int, nth: int) -> None:
        x, ids, cache, n, heads, x_token, x_head, cache_token, cache_head = arguments(step)
        first, last = share(rows(step, run), ith, nth)
        for r in range(first, last):
            t, h = r // heads, r % heads
            src = x + t * x_token + h * x_head
            dst = cache + get(ids + 4 * t, I32) * cache_token + h * cache_head
            quantize_row(kind, src, dst, n)

    return set_rows


@ops.set_rows.lowering(
    "cpu", when=lambda node: len(node.shape) == 3, strided=("cache", "rows"), cache=CACHE_TYPES
)
def _(low: Low, node: Tensor) -> None:
    cache, x, ids = map(low.operand, node.sources)
    low.alias(node, cache)
    kernel = set_rows_from_f32(cache.type.dtype.id)
    strides = row_strides(x=x, cache=cache)
    low.step(kernel, x=x, ids=ids, cache=cache, n=node.shape[-1], **strides, over=x.type)


@kernel("source target -> cache | n")
def copy_rows_inside() -> Callable[..., None]:
    """Copies rows of n bytes inside of a cache; each thread takes a part of every row."""

    def copy_rows(step: int, run: int, ith: int, nth: int) -> None:
        source, target, cache, n = arguments(step)
        for r in range(rows(step, run)):
            x, y = get(source + 4 * r, I32) * n, get(target + 4 * r, I32) * n
            copy_share(cache + x, cache + y, n, ith, nth)

    return copy_rows


@ops.copy_rows.lowering("cpu")
def _(low: Low, node: Tensor) -> None:
    cache, source, target = map(low.operand, node.sources)
    low.alias(node, cache)
    rows = rows_of(source.type, inner=0)
    low.step(copy_rows_inside(), cache=cache, source=source, target=target, n=cache.strides[0], rows=rows)
