"""Rows, views and copies, lowered: launches of copy.cu, and views that cost nothing."""

from dataclasses import dataclass, field

from graphsched.backends.cuda.call import Call
from graphsched.backends.cuda.families import copy, w2a8
from graphsched.backends.cuda.lowering import At, Low, contiguous, strides, three
from graphsched.backends.cuda.weights import BLOCKS, FLOATS, TYPES, is_tiled, kind_of, row_bytes
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out, dense
from graphsched.types import dtypes

F32 = (dtypes.F32,)


def copied(low: Low, x: Operand, y: Operand, shared: bool = False) -> Operand:
    """Launches the copy of x, of any strides, into y as float32; `shared`: x's one head stands for all of y's."""
    kind, (y0, y1) = FLOATS[x.type.dtype], strides(y)
    x0, x1 = strides(x, x.type.dtype.nbytes)
    step = x.strides[-1] // x.type.dtype.nbytes
    heads = three(y.type)[1]

    def make(at: At) -> list[Call]:
        n, _, k = at.shape(x.type)
        shape, xs, ys = (n, 1, heads, k), (x0, 0, 0 if shared else x1, step), (y0, 0, y1, 1)
        return [copy.copy(at(x), at(y), (kind, "f32"), shape, xs, ys)]

    low.launch(make, x, Out(y))
    return y


# ---- rows


def _rows_of_matrix(node: Tensor) -> bool:
    x, ids = node.sources
    return len(ids.shape) == 1 and (x.kind == "weight" or x.dtype in FLOATS) and len(x.shape) in (2, 3)


@ops.get_rows.lowering("cuda", when=_rows_of_matrix, x=TYPES)
def _(low: Low, node: Tensor) -> None:
    x, ids = map(low.operand, node.sources)
    y, kind = low.result(node), kind_of(x.type.dtype)
    k = node.type.numel // max(int(node.shape[0]), 1)
    is_weight = node.sources[0].kind == "weight" or node.sources[0].kind == "copy"

    def make(at: At) -> list[Call]:
        n, rows = at.n(node.shape[0]), at.n(x.type.shape[0])
        if is_tiled(x.type):
            return [w2a8.get_rows(at(x), at(x) + w2a8.scales_at(rows, k), at(ids), at(y), n, rows, k)]
        if x.type.dtype in BLOCKS:
            return [copy.dequantize(kind, at(x), at(y), at(ids), n, rows, k)]
        stride = (
            row_bytes(x.type) if is_weight and len(x.type.shape) == 2 and x.buffer.memory else x.strides[0]
        )
        return [copy.get_rows(kind, at(x), at(ids), at(y), n, rows, k, stride // x.type.dtype.nbytes)]

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


CACHE_BLOCKS = {dtypes.Q8_0: "q8_0", dtypes.Q4_0: "q4_0"}


@ops.set_rows.lowering("cuda", cache=(dtypes.F32, dtypes.F16, *CACHE_BLOCKS), rows=F32)
def _(low: Low, node: Tensor) -> None:
    cache, x, slots = map(low.operand, node.sources)
    low.alias(node, cache)
    x = x if strides(x)[1] in (0, int(x.type.shape[-1])) else contiguous(low, x)
    k, blocks = node.type.numel // int(node.shape[0]), cache.type.dtype in CACHE_BLOCKS
    kind = CACHE_BLOCKS[cache.type.dtype] if blocks else FLOATS[cache.type.dtype]
    to = cache.strides[0] if blocks else cache.strides[0] // cache.type.dtype.nbytes
    pair = Pair(x, cache, k, x.strides[0] // 4, to)
    key, rows = (kind, slots.buffer), node.sources[2].shape[0]
    found = low.writes.pop(key, None)
    if found is None or not found.takes(pair):
        found = Writes(low, kind, slots, rows)
        if low.fuses:
            low.writes[key] = found
    found.add(pair)


@dataclass(frozen=True)
class Pair:
    """Rows for a cache, `k` wide; strides as copy.Rows has them."""

    x: Operand
    cache: Operand
    k: int
    x_stride: int
    stride: int


@dataclass
class Writes:
    """A launch that writes one cache, and takes another of the same type and slots: keys and values."""

    low: Low
    kind: str
    slots: Operand
    rows: int
    pairs: list[Pair] = field(default_factory=list)
    index: int = -1

    def takes(self, pair: Pair) -> bool:
        ready = self.low.is_ready(pair.x, self.index) and self.low.is_untouched(pair.cache, self.index)
        return len(self.pairs) == 1 and ready

    def add(self, pair: Pair) -> None:
        self.pairs.append(pair)
        args: tuple[Operand | Out, ...] = (
            *(p.x for p in self.pairs),
            self.slots,
            *(Out(p.cache) for p in self.pairs),
        )
        self.index = self.low.relaunch(self.index, self._calls, *args)

    def _calls(self, at: At) -> list[Call]:
        pairs = [copy.Rows(at(p.x), at(p.cache), p.k, p.x_stride, p.stride) for p in self.pairs]
        return [copy.set_rows(self.kind, at(self.slots), at.n(self.rows), *pairs)]


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
    offset = x.offset + x.type.dtype.row_bytes(node.attrs["start"])
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
    head, kind = x.strides[1] if len(x.type.shape) == 3 else 0, CACHE_BLOCKS[x.type.dtype]
    apart = head, x.strides[0]
    low.launch(lambda at: [copy.from_blocks(kind, at(x), at(y), at.shape(x.type), apart)], x, Out(y))


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
