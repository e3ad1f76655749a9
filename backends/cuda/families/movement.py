"""Rows, views and copies, lowered: launches of copy.cu, and views that cost nothing."""

from collections.abc import Sequence

from graphsched.backends.cuda.families import copy, w2a8
from graphsched.backends.cuda.families.dense import contiguous, copied
from graphsched.backends.cuda.launch import ternary_tiles
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.fused import CACHE_BLOCKS, takes_whole
from graphsched.backends.cuda.launch.lowering import At, Low, strides
from graphsched.backends.cuda.launch.weights import BLOCKS, FLOATS, TYPES, is_tiled, kind_of, row_bytes
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out, dense
from graphsched.types import dtypes

F32 = (dtypes.F32,)


# ---- rows


def _rows_of_matrix(node: Tensor) -> bool:
    x, ids = node.sources
    return len(ids.shape) == 1 and len(x.shape) in (2, 3) and (x.kind == "weight" or x.dtype in FLOATS)


@ops.get_rows.lowering("cuda", when=_rows_of_matrix, x=TYPES)
def _(low: Low, node: Tensor) -> None:
    x, ids = map(low.operand, node.sources)
    if node.sources[0].kind not in ("weight", "copy"):
        _rows_by_strides(low, node, FLOATS[x.type.dtype])
        return
    y, kind = low.result(node), kind_of(x.type.dtype)
    k = node.type.numel // max(int(node.shape[0]), 1)

    def make(at: At) -> list[Call]:
        n, rows = at.n(node.shape[0]), at.n(x.type.shape[0])
        if is_tiled(x.type):
            return [
                w2a8.get_rows(at(x), at(x) + ternary_tiles.scales_at(rows, k), at(ids), at(y), n, rows, k)
            ]
        if x.type.dtype in BLOCKS:
            return [copy.dequantize(kind, at(x), at(y), at(ids), n, rows, k)]
        is_padded = len(x.type.shape) == 2 and x.buffer.memory
        stride = row_bytes(x.type) if is_padded else x.strides[0]
        return [copy.get_rows(kind, at(x), at(ids), at(y), (n, 1, k), rows, (stride, 0))]

    low.launch(make, x, ids, Out(y))


def _rows_of_cache(node: Tensor) -> bool:
    x, ids = node.sources
    return len(ids.shape) == 1 and len(x.shape) == 3 and x.kind != "weight"


@ops.get_rows.lowering("cuda", when=_rows_of_cache, x=tuple(CACHE_BLOCKS))
def _(low: Low, node: Tensor) -> None:
    _rows_by_strides(low, node, CACHE_BLOCKS[node.sources[0].dtype])


def _rows_by_strides(low: Low, node: Tensor, kind: str) -> None:
    """Launches rows of what is no weight."""
    x, ids = map(low.operand, node.sources)
    y, strides = low.result(node), (x.strides[0], x.strides[1] if len(x.type.shape) == 3 else 0)

    def make(at: At) -> list[Call]:
        return [
            copy.get_rows(kind, at(x), at(ids), at(y), at.shape(node.type), at.n(x.type.shape[0]), strides)
        ]

    low.launch(make, x, ids, Out(y))


@ops.get_rows.lowering("cuda", when=lambda node: len(node.sources[1].shape) == 2, x=F32)
def _(low: Low, node: Tensor) -> None:
    x, ids = map(low.operand, node.sources)
    y, used = low.result(node), node.shape[1]
    k, n = (1 if len(x.type.shape) == 2 else int(x.type.shape[2])), int(x.type.shape[1])
    x0, x1 = x.strides[0] // 4, (x.strides[1] // 4)
    low.launch(
        lambda at: [copy.choose(at(x), at(ids), at(y), (at.n(node.shape[0]), used, k), n, (x0, x1))],
        x,
        ids,
        Out(y),
    )


@ops.set_rows.lowering("cuda", cache=dtypes.KV_TYPES, rows=F32)
def _(low: Low, node: Tensor) -> None:
    cache, x, ids = node.sources
    _set_rows(low, node, ((cache, x),), ids)


@ops.fused_set_rows.lowering("cuda", when=takes_whole, k_cache=dtypes.KV_TYPES, k=F32, v=F32)
def _(low: Low, node: Tensor) -> None:
    k_cache, k, v_cache, v, ids = node.sources
    _set_rows(low, node, ((k_cache, k), (v_cache, v)), ids)


def _set_rows(low: Low, node: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], ids: Tensor) -> None:
    """Launches rows of one tensor or two into a cache each; the results of the node are the caches."""
    caches = [low.operand(cache) for cache, _ in pairs]
    rows = [_rows_of(low, low.operand(x)) for _, x in pairs]
    low.alias_results(node, *caches)
    at_ids, dtype = low.operand(ids), caches[0].type.dtype
    kind = CACHE_BLOCKS.get(dtype) or FLOATS[dtype]
    unit = 1 if dtype in CACHE_BLOCKS else dtype.nbytes  # blocks have strides in bytes

    def make(at: At) -> list[Call]:
        written = [
            copy.Rows(
                at(x),
                at(c),
                c.type.numel // int(c.type.shape[0]),
                x.strides[0] // 4,
                c.strides[0] // unit,
                int(c.type.shape[1]),
            )
            for x, c in zip(rows, caches, strict=True)
        ]
        return [copy.set_rows(kind, at(at_ids), at.n(ids.shape[0]), *written)]

    low.launch(make, *rows, at_ids, *map(Out, caches))


@ops.copy_rows.lowering("cuda")
def _(low: Low, node: Tensor) -> None:
    cache, source, target = map(low.operand, node.sources)
    low.alias(node, cache)
    n = node.sources[1].shape[0]
    low.launch(
        lambda at: [copy.copy_rows(at(cache), at(source), at(target), at.n(n), cache.strides[0])],
        source,
        target,
        Out(cache),
    )


def _rows_of(low: Low, x: Operand) -> Operand:
    """x with the heads of a token side by side."""
    return x if strides(x)[1] in (0, int(x.type.shape[-1])) else contiguous(low, x)


# ---- views


@ops.reshape.lowering("cuda")
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    if len(x.type.shape) == 2 and len(node.shape) == 3:  # [T, n·d] -> [T, n, d] keeps the rows where they are
        item = x.strides[-1]
        low.alias(node, Operand(x.buffer, node.type, (x.strides[0], item * node.shape[2], item), x.offset))
        return
    if (
        len(x.type.shape) == 3
        and x.type.shape[1] == 1
        and len(node.shape) == 2
        and node.shape[1] == x.type.shape[2]
    ):
        low.alias(node, Operand(x.buffer, node.type, (x.strides[0], x.strides[2]), x.offset))
        return
    x = contiguous(low, x)
    low.alias(node, Operand(x.buffer, node.type, dense(x.buffer, node.type).strides, x.offset))


@ops.view.lowering("cuda")
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    offset = x.offset + x.type.dtype.offset_of(node.attrs["start"])
    low.alias(node, Operand(x.buffer, node.type, x.strides, offset))


@ops.part.lowering("cuda")
def _(low: Low, node: Tensor) -> None:
    low.part(node)


@ops.permute.lowering("cuda")
def _(low: Low, node: Tensor) -> None:
    x = low.operand(node.sources[0])
    axes = tuple(x.strides[a] for a in node.attrs["axes"])
    low.alias(node, Operand(x.buffer, node.type, axes, x.offset))


# ---- copies


@ops.cont.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    copied(low, low.operand(node.sources[0]), low.result(node))


@ops.copy_f32.lowering("cuda", x=tuple(FLOATS))
def _(low: Low, node: Tensor) -> None:
    copied(low, low.operand(node.sources[0]), low.result(node))


@ops.copy_f32.lowering("cuda", x=tuple(CACHE_BLOCKS), when=lambda node: node.sources[0].kind != "weight")
def _(low: Low, node: Tensor) -> None:
    x, y = low.operand(node.sources[0]), low.result(node)
    kind, strides = CACHE_BLOCKS[x.type.dtype], (x.strides[0], x.strides[1] if len(x.type.shape) == 3 else 0)

    def make(at: At) -> list[Call]:
        rows, heads, k = at.shape(x.type)
        return [copy.get_rows(kind, at(x), None, at(y), (rows, heads, k), rows, strides)]

    low.launch(make, x, Out(y))


@ops.repeat.lowering("cuda", x=F32)
def _(low: Low, node: Tensor) -> None:
    copied(low, low.operand(node.sources[0]), low.result(node), shared=True)


@ops.concat.lowering("cuda", a=F32, b=F32)
def _(low: Low, node: Tensor) -> None:
    y, offset = low.result(node), 0
    for source in node.sources:
        part = Operand(y.buffer, node.type, y.strides, y.offset + offset)
        copied(low, low.operand(source), part, shared=len(node.shape) == 3 and source.shape[1] == 1)
        offset += 4 * int(source.shape[-1])
