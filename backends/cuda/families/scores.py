"""Launches of scores.cu: attention in parts (-fa 0), whose scores are a tensor between two products with views."""

from dataclasses import dataclass

from graphsched.backends.cuda.families.attention import KINDS, Mask
from graphsched.backends.cuda.families.dense import contiguous
from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.lowering import At, Low, strides
from graphsched.backends.cuda.launch.weights import FLOATS, row_bytes
from graphsched.graph import ops
from graphsched.graph.tensor import Extent, Tensor
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes

FEW = 8  # rows of a block for a few tokens
TILE = 64  # of a block for many, and columns
NARROW = 16  # columns of a block for few rows whose sums run over cells


@dataclass(frozen=True)
class View:
    """w[kv_heads, n, k] by strides in bytes; blocks are dense in k, or in n."""

    kind: str
    kv_heads: int
    n: int
    k: int
    head: int
    row: int
    step: int

    @property
    def is_along_k(self) -> bool:
        """Whether neighbours in memory are neighbours in k."""
        return self.step <= self.row


def product(
    x: Address,
    w: Address,
    y: Address,
    tokens: int,
    heads: int,
    view: View,
    x_strides: tuple[int, int],
    n_used: Address = None,
    k_used: Address = None,
) -> Call:
    """y[t, h] = w[h / (heads / kv_heads)] · x[t, h], y dense; of n and k only as many as n_used and k_used hold."""
    rows = tokens * (heads // view.kv_heads)
    tile = FEW if rows <= FEW else TILE
    name = f"{'rows' if view.is_along_k else 'columns'}_{tile}_{view.kind}"
    columns, threads = (NARROW, 128) if tile == FEW and not view.is_along_k else (TILE, 256)
    args = (x, w, y, n_used, k_used, tokens, heads, view.kv_heads, view.n, view.k, *x_strides)
    grid = (up(rows, tile), up(view.n, columns), view.kv_heads)
    return Call("scores", (view.kind,), name, grid, threads, (*args, view.head, view.row, view.step))


def soft_max_seen(
    x: Address,
    y: Address,
    mask: Mask,
    cells: Address,
    used: Address,
    tokens: int,
    heads: int,
    n: int,
    scale: float,
    cap: float = 0.0,
    sinks: Address = None,
) -> Call:
    """softmax over the cells that a token sees, with a cap of cap · tanh(scale · x / cap); [tokens, heads, n].

    cells: (slot, position) of each; of n as many as `used` holds.
    """
    scales = (scale / cap, cap) if cap else (scale, 0.0)
    sizes = (heads, n, *scales, mask.window, mask.chunk, mask.max_bias)
    args = (x, y, mask.where, cells, used, sinks, *sizes)
    return Call("scores", (), "soft_max_seen", (tokens * heads,), 256, args)


# ---- lowered


def _reads_view(node: Tensor) -> bool:
    """Several matrices that are no weights; or weights of floats with rows that start anywhere."""
    w = node.sources[0]
    if w.kind in ("weight", "copy"):
        return len(w.shape) == 3 and w.dtype in FLOATS
    return len(w.shape) == 3


def _view(w: Operand, is_weight: bool) -> View:
    kv_heads, n, k = map(int, w.type.shape)
    head, row, step = w.strides
    if is_weight:  # rows are padded here
        row = row_bytes(w.type)
        head = row * n
    return View(KINDS[w.type.dtype], kv_heads, n, k, head, row, step)


@ops.mul_mat.lowering("cuda", when=_reads_view, w=KINDS, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    w, x = map(low.operand, node.sources)
    view, y = _view(w, node.sources[0].kind in ("weight", "copy")), low.result(node)
    x = x if x.strides[-1] == 4 else contiguous(low, x)
    x_strides, (tokens, heads, _) = strides(x), node.shape
    used = [low.length(d) if isinstance(d, Extent) else None for d in w.type.shape[1:]]

    def make(at: At) -> list[Call]:
        n_used, k_used = (length(at) if length else None for length in used)
        args = at(x), at(w), at(y), at.n(tokens), int(heads)
        return [product(*args, view, x_strides, n_used, k_used)]

    low.launch(make, w, x, Out(y))


def _soft_max(low: Low, node: Tensor, cap: float = 0.0) -> None:
    x, where, cells, *sinks = map(low.operand, node.sources)
    x, y, a = contiguous(low, x), low.result(node, in_place_of=node.sources[:1]), node.attrs
    (tokens, heads, n), used = node.shape, low.length(node.shape[2])

    def make(at: At) -> list[Call]:
        sink = at(sinks[0]) if sinks else None
        mask = Mask(at(where), a["window"], a["chunk"], a.get("max_bias", 0.0))
        shape = at.n(tokens), int(heads), int(n)
        return [soft_max_seen(at(x), at(y), mask, at(cells), used(at), *shape, a["scale"], cap, sink)]

    low.launch(make, x, where, cells, *sinks, Out(y))


@ops.soft_max.lowering("cuda", when=lambda node: len(node.sources) > 2, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _soft_max(low, node)


@ops.soft_cap_max.lowering("cuda", x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    _soft_max(low, node, node.attrs["cap"])
