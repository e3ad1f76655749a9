"""Rows, views and copies."""

from collections.abc import Iterator, Mapping

import numpy as np

from graphsched.graph.opdef import Array, Case, Op, as_f32, case, op, require
from graphsched.graph.ops.matmul import WEIGHT_TYPES, whole_blocks
from graphsched.graph.ops.several import several
from graphsched.graph.tensor import Tensor, TensorType, f32, i32
from graphsched.types import dtypes
from graphsched.types.dtypes import DType


@op(
    Op.GET_ROWS,
    rowwise=lambda node: len(node.sources[1].shape) == 2,
    gathers=True,
    reads_cache="x",
    keeps_label=True,
)
def get_rows(x: Tensor, ids: Tensor) -> TensorType:
    """y[i] = x[ids[i]] as float32; with ids[t, u], y[t, u] = x[t, ids[t, u]]"""
    if len(ids.shape) == 1:
        return f32(ids.shape[0], *x.shape[1:])
    require(len(ids.shape) == 2 and ids.shape[0] == x.shape[0], "get_rows: ids {} do not fit {}", ids, x)
    return f32(*ids.shape, *x.shape[2:])


@get_rows.reference
def _(x: Array, ids: Array) -> Array:
    return x[ids] if ids.ndim == 1 else x[np.arange(len(x))[:, None], ids]


@get_rows.nbytes
def _(x: TensorType, ids: TensorType) -> int:
    rows = x.shape[0] if len(ids.shape) == 1 else x.shape[0] * x.shape[1]
    rows = max(rows, 1)  # none, where no row of the outputs is wanted
    return (x.nbytes // rows + 4 * x.numel // rows) * ids.numel + ids.nbytes


@get_rows.cases
def _() -> Iterator[Case]:
    for t in WEIGHT_TYPES:
        yield case(TensorType(t, (40, whole_blocks(t, 96))), i32(7), ints={1: (0, 40)})
    yield case(f32(9, 33), i32(4), ints={1: (0, 9)})
    yield case(f32(9, 3, 8), i32(4), ints={1: (0, 9)})
    for t in dtypes.KV_TYPES:
        yield case(TensorType(t, (9, 3, 32)), i32(4), ints={1: (0, 9)})
    yield case(f32(5, 8), i32(5, 2), ints={1: (0, 8)})
    yield case(f32(5, 8, 33), i32(5, 2), ints={1: (0, 8)})
    yield case(TensorType(dtypes.F16, (5, 8, 32)), i32(5, 2), ints={1: (0, 8)})


def _keeps_rows(node: Tensor) -> bool:
    return bool(node.sources[0].shape[0] == node.shape[0])


@op(Op.RESHAPE, rowwise=_keeps_rows, view=True, keeps_label=True)
def reshape(x: Tensor, *, shape: tuple[int, ...]) -> TensorType:
    """The same elements in another shape; no copy"""
    made = TensorType(x.dtype, shape)
    require(made.numel == x.type.numel, "reshape: {} cannot take shape {}", x, list(shape))
    return made


@reshape.reference
def _(x: Array, *, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


@reshape.nbytes
def _(x: TensorType, *, shape: tuple[int, ...]) -> int:
    return 0


@reshape.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 24), shape=(5, 4, 6))


@op(Op.VIEW, rowwise=_keeps_rows, view=True, keeps_label=True)
def view(x: Tensor, *, start: int, stop: int) -> TensorType:
    """x[..., start:stop]; no copy"""
    require(0 <= start < stop <= x.shape[-1], "view: {}:{} is outside {}", start, stop, x)
    require(start % x.dtype.block == 0, "view: {} is inside a block of {}", start, x)
    require(not (start and x.dtype.row_header), "view: {}: the scale of a row is in front of it", x)
    return TensorType(x.dtype, (*x.shape[:-1], stop - start))


@view.reference
def _(x: Array, *, start: int, stop: int) -> Array:
    return x[..., start:stop]


@view.nbytes
def _(x: TensorType, *, start: int, stop: int) -> int:
    return 0


@view.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 4, 24), start=8, stop=24)
    yield case(TensorType(dtypes.Q8_0, (5, 1, 96)), start=32, stop=96)
    yield case(TensorType(dtypes.Q8_KV, (5, 1, 96)), start=0, stop=64)


@op(Op.PERMUTE, view=True, keeps_label=True)
def permute(x: Tensor, *, axes: tuple[int, ...]) -> TensorType:
    """x with its dimensions in another order; no copy"""
    require(sorted(axes) == list(range(len(x.shape))), "permute: axes {} do not fit {}", list(axes), x)
    whole = x.dtype.block == 1 or axes[-1] == len(axes) - 1
    require(whole, "permute: {} is in blocks along its last dimension", x)
    return TensorType(x.dtype, tuple(x.shape[a] for a in axes))


@permute.reference
def _(x: Array, *, axes: tuple[int, ...]) -> Array:
    return x.transpose(axes)


@permute.nbytes
def _(x: TensorType, *, axes: tuple[int, ...]) -> int:
    return 0


@permute.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 4, 24), axes=(1, 0, 2))
    yield case(TensorType(dtypes.F16, (5, 2, 33)), axes=(1, 2, 0))
    yield case(TensorType(dtypes.Q8_0, (5, 1, 96)), axes=(1, 0, 2))


@op(Op.CONT, rowwise=True, keeps_label=True)
def cont(x: Tensor) -> TensorType:
    """A contiguous copy"""
    return x.type


@cont.reference
def _(x: Array) -> Array:
    return np.ascontiguousarray(x)


@cont.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 24))
    yield case(f32(5, 3, 7))


@op(Op.CPY, rowwise=True)
def copy_f32(x: Tensor) -> TensorType:
    """x as float32, a contiguous copy"""
    return f32(*x.shape)


@copy_f32.reference
def _(x: Array) -> Array:
    return np.ascontiguousarray(x, np.float32)


@copy_f32.cases
def _() -> Iterator[Case]:
    for t in dtypes.KV_TYPES:
        yield case(TensorType(t, (5, 64)))
        yield case(TensorType(t, (5, 3, 32)))
    yield case(TensorType(dtypes.F16, (5, 1, 33)))


@op(Op.REPEAT, rowwise=True)
def repeat(x: Tensor, *, n: int) -> TensorType:
    """y[t, u] = x[t, 0] for n values of u"""
    require(len(x.shape) == 3 and x.shape[1] == 1, "repeat: {} must be [tokens, 1, width]", x)
    return f32(x.shape[0], n, x.shape[2])


@repeat.reference
def _(x: Array, *, n: int) -> Array:
    return np.repeat(x, n, axis=1)


@repeat.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 1, 33), n=3)


@op(Op.CONCAT, rowwise=True)
def concat(a: Tensor, b: Tensor) -> TensorType:
    """a and b side by side along the last dimension; b's other dimensions may be 1"""
    fits = len(a.shape) == len(b.shape) and all(
        y in (1, x) for x, y in zip(a.shape[:-1], b.shape[:-1], strict=True)
    )
    require(fits, "concat: {} does not fit {}", b, a)
    return TensorType(a.dtype, (*a.shape[:-1], a.shape[-1] + b.shape[-1]))


@concat.reference
def _(a: Array, b: Array) -> Array:
    return np.concatenate([a, np.broadcast_to(b, (*a.shape[:-1], b.shape[-1]))], axis=-1)


@concat.cases
def _() -> Iterator[Case]:
    yield case(f32(5, 4, 24), f32(5, 4, 8))
    yield case(f32(5, 4, 24), f32(5, 1, 8))


def rounded(x: Array, dtype: DType) -> Array:
    """float32 values as they come back from being stored in dtype."""
    return dtype.dequantize(dtype.quantize(np.ascontiguousarray(x), at_once=True), x.shape)


@op(Op.SET_ROWS, writes_cache="cache")
def set_rows(cache: Tensor, rows: Tensor, ids: Tensor, *, dtype: DType) -> TensorType:
    """cache[ids[i]] = rows[i], rounded to the cache's type; the result is the cache"""
    require(cache.shape[1:] == rows.shape[1:], "set_rows: {} does not fit {}", rows, cache)
    require(ids.shape[0] == rows.shape[0], "set_rows: {} does not fit {}", ids, rows)
    require(dtype == cache.dtype, "set_rows: {} does not hold {}", cache, dtype)
    return cache.type


@set_rows.reference
def _(cache: Array, rows: Array, ids: Array, *, dtype: DType) -> Array:
    cache[ids] = rounded(rows, dtype)
    return cache


@set_rows.nbytes
def _(cache: TensorType, rows: TensorType, ids: TensorType, *, dtype: DType) -> int:
    return rows.nbytes + ids.nbytes + dtype.tensor_bytes(tuple(int(d) for d in rows.shape))


def _different_cells(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    cells = next(iter(types.values())).shape[0]  # the first operand is a cache
    return rng.permutation(cells)[: types["ids"].shape[0]].astype(np.int32)


set_rows.draw(ids=_different_cells)


@set_rows.cases
def _() -> Iterator[Case]:
    for t in dtypes.KV_TYPES:
        yield case(TensorType(t, (40, 3, 32)), f32(5, 3, 32), i32(5), dtype=t)


@several(Op.FUSED_SET_ROWS, rowwise=False)
def fused_set_rows(
    k_cache: Tensor, k: Tensor, v_cache: Tensor, v: Tensor, ids: Tensor, *, dtype: DType
) -> tuple[Tensor, ...]:
    """set_rows of keys and of values into the same cells; the results are the caches"""
    return set_rows(k_cache, k, ids, dtype=dtype), set_rows(v_cache, v, ids, dtype=dtype)


@fused_set_rows.reference
def _(k_cache: Array, k: Array, v_cache: Array, v: Array, ids: Array, *, dtype: DType) -> Array:
    """Both caches are changed in place."""
    for cache, rows in ((k_cache, k), (v_cache, v)):
        cache[ids] = rounded(rows, dtype)
    return as_f32(np.concatenate([c.reshape(len(c), -1) for c in (k_cache, v_cache)], axis=1))


@fused_set_rows.nbytes
def _(
    k_cache: TensorType, k: TensorType, v_cache: TensorType, v: TensorType, ids: TensorType, *, dtype: DType
) -> int:
    stored = (dtype.tensor_bytes(tuple(map(int, rows.shape))) for rows in (k, v))
    return k.nbytes + v.nbytes + ids.nbytes + sum(stored)


fused_set_rows.draw(ids=_different_cells)


@fused_set_rows.cases
def _() -> Iterator[Case]:
    for t in dtypes.KV_TYPES:
        caches = TensorType(t, (40, 3, 32)), TensorType(t, (40, 2, 64))
        rows = f32(5, 3, 32), f32(5, 2, 64)
        yield case(caches[0], rows[0], caches[1], rows[1], i32(5), dtype=t)


@op(Op.COPY_ROWS, writes_cache="cache")
def copy_rows(cache: Tensor, source: Tensor, target: Tensor) -> TensorType:
    """cache[target[i]] = cache[source[i]], bytes as they are; no row is both. The result is the cache"""
    require(source.shape == target.shape, "copy_rows: {} does not fit {}", source, target)
    return cache.type


@copy_rows.reference
def _(cache: Array, source: Array, target: Array) -> Array:
    cache[target] = cache[source]
    return cache


@copy_rows.nbytes
def _(cache: TensorType, source: TensorType, target: TensorType) -> int:
    row = cache.dtype.tensor_bytes((1, *map(int, cache.shape[1:])))
    return source.nbytes + target.nbytes + 2 * int(source.shape[0]) * row


def _first_half(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    return rng.permutation(types["cache"].shape[0] // 2)[: types["source"].shape[0]].astype(np.int32)


def _second_half(types: Mapping[str, TensorType], rng: np.random.Generator) -> Array:
    return _first_half(types, rng) + types["cache"].shape[0] // 2


copy_rows.draw(source=_first_half, target=_second_half)


@copy_rows.cases
def _() -> Iterator[Case]:
    for t in dtypes.KV_TYPES:
        yield case(TensorType(t, (40, 3, 32)), i32(5), i32(5))
    yield case(f32(6, 3, 35), i32(1), i32(1))
