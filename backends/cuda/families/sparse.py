"""Launches of sparse.cu: the indexer of sparse attention, attention over what it chooses, pools of keys."""

from dataclasses import dataclass

from graphsched.backends.cuda.families.attention import KINDS
from graphsched.backends.cuda.families.dense import contiguous, whole_rows
from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.lowering import At, Low, strides
from graphsched.graph import ops
from graphsched.graph.ops.sparse import n_words
from graphsched.graph.tensor import Tensor, i32
from graphsched.run.operand import Out
from graphsched.types import dtypes
from graphsched.types.extents import CELL_BLOCK

MOST_VALUES = 1024  # elements of a row of values
THREADS = 128


@dataclass(frozen=True)
class Choice:
    """What lightning_indexer's attributes say; local, tail and pooled as there."""

    dim: int
    heads: int
    groups: int
    words: int
    top_k: int
    size: int = 1
    pooled: bool = False
    tail: bool = True
    local: int = 0

    @property
    def args(self) -> tuple[int, ...]:
        """As the kernel has them."""
        sizes = (self.dim, self.heads, self.groups, self.words, self.top_k, self.size)
        return (*sizes, int(self.pooled), int(self.tail), self.local)


def choose(
    kind: str,
    operands: tuple[Address, ...],
    y: Address,
    scores: Address,
    tokens: int,
    choice: Choice,
    blocks: int,
    apart: tuple[int, int, int],
) -> Call:
    """operands: q, k, where, table, w (None: 1); scores: 32 · words integers for each of so many blocks; apart: floats
    from token to token and from head to head of q, bytes from cell to cell."""
    rows = tokens * choice.groups
    args = (*operands, y, scores, rows, *choice.args, choice.words * CELL_BLOCK, *apart)
    return Call("sparse", (kind,), f"choose_{kind}", (min(rows, blocks),), 256, args)


def sparse_attn(
    kind: str,
    operands: tuple[Address, ...],
    y: Address,
    tokens: int,
    shape: tuple[int, int, int, int],
    bits: tuple[int, int],
    apart: tuple[int, ...],
    scale: float,
) -> Call:
    """operands: q, k, v, where, table, bits; shape (heads, heads of a key, dk, dv), bits (words, groups); apart: of
    tokens and heads of q in floats, of cells and heads of k and of v in bytes."""
    args = (*operands, y, *shape, *bits, *apart, scale)
    return Call("sparse", (kind,), f"sparse_attn_{kind}", (shape[0], tokens), THREADS, args)


def pool(
    kind: str,
    operands: tuple[Address, ...],
    y: Address,
    tokens: int,
    dim: int,
    size: int,
    overlap: bool,
    apart: tuple[int, int],
) -> Call:
    """operands: x, where, table, gates, bias (None: equal shares); apart: bytes from cell to cell of x and gates."""
    args = (*operands, y, dim, size, int(overlap), *apart)
    return Call("sparse", (kind,), f"pool_{kind}", (tokens, up(dim, THREADS)), THREADS, args)


def compressed_attn(
    kind: str,
    operands: tuple[Address, ...],
    y: Address,
    tokens: int,
    shape: tuple[int, int, int, int, int],
    apart: tuple[int, ...],
    scale: float,
) -> Call:
    """operands: q, k, where, table, c, c's where and table, sinks, bits (None: all units); shape (heads, width, words
    of bits, window, size of a unit); apart: of tokens and heads of q in floats, of cells of k and of c in bytes."""
    args = (*operands, y, *shape, *apart, scale)
    return Call("sparse", (kind,), f"compressed_attn_{kind}", (shape[0], tokens), THREADS, args)


# ---- lowered


@ops.lightning_indexer.lowering("cuda", q=(dtypes.F32,), k=KINDS)
def _(low: Low, node: Tensor) -> None:
    q, k, where, table, *w = map(low.operand, node.sources)
    q, a, y = whole_rows(low, q), node.attrs, low.result(node)
    weights = contiguous(low, w[0]) if w else None
    (tokens, groups, words), (_, heads, dim) = node.shape, node.sources[0].shape
    named = {name: a[name] for name in ("top_k", "size", "pooled", "tail", "local")}
    choice = Choice(dim, heads, groups, words, **named)
    blocks = min(int(tokens) * groups, low.sms)
    scores = low.scratch("scores", i32(blocks, n_words(a["n_positions"]) * CELL_BLOCK))
    apart = (*strides(q), k.strides[0])

    def make(at: At) -> list[Call]:
        given = at(q), at(k), at(where), at(table), at(weights) if weights else None
        kind = KINDS[k.type.dtype]
        return [choose(kind, given, at(y), at(scores), at.n(tokens), choice, blocks, apart)]

    low.launch(make, q, k, where, table, *([weights] if weights else []), Out(scores), Out(y))


def _fits(node: Tensor) -> bool:
    k, v = node.sources[1:3]
    whole = all(c.shape[2] % c.dtype.block == 0 for c in (k, v))
    return whole and k.dtype == v.dtype and int(v.shape[2]) <= MOST_VALUES


@ops.sparse_attn.lowering("cuda", when=_fits, q=(dtypes.F32,), k=KINDS, v=KINDS)
def _(low: Low, node: Tensor) -> None:
    q, k, v, where, table, chosen = map(low.operand, node.sources)
    q, y = whole_rows(low, q), low.result(node)
    (_, n_head, dk), (_, groups, words) = node.sources[0].shape, node.sources[5].shape
    shape = n_head, n_head // k.type.shape[1], dk, int(node.shape[2])
    apart = (*strides(q), *k.strides[:2], *v.strides[:2])

    def make(at: At) -> list[Call]:
        given = at(q), at(k), at(v), at(where), at(table), at(chosen)
        tokens, scale = at.n(node.shape[0]), node.attrs["scale"]
        kind = KINDS[k.type.dtype]
        return [sparse_attn(kind, given, at(y), tokens, shape, (words, groups), apart, scale)]

    low.launch(make, q, k, v, where, table, chosen, Out(y))


def _is_one_type(node: Tensor) -> bool:
    k, c = node.sources[1], node.sources[4]
    return k.dtype == c.dtype and not k.shape[2] % k.dtype.block and int(k.shape[2]) <= MOST_VALUES


@ops.compressed_attn.lowering("cuda", when=_is_one_type, q=(dtypes.F32,), k=KINDS, c=KINDS)
def _(low: Low, node: Tensor) -> None:
    q, k, where, table, c, c_where, c_table, sinks, *bits = map(low.operand, node.sources)
    q, y, a = whole_rows(low, q), low.result(node), node.attrs
    words = int(bits[0].type.shape[2]) if bits else 0
    shape = int(node.shape[1]), int(node.shape[2]), words, a["window"], a["size"]
    apart = (*strides(q), k.strides[0], c.strides[0])

    def make(at: At) -> list[Call]:
        own, far = (at(q), at(k), at(where), at(table)), (at(c), at(c_where), at(c_table))
        given = *own, *far, at(sinks), at(bits[0]) if bits else None
        kind = KINDS[k.type.dtype]
        return [compressed_attn(kind, given, at(y), at.n(node.shape[0]), shape, apart, a["scale"])]

    low.launch(make, q, k, where, table, c, c_where, c_table, sinks, *bits, Out(y))


@ops.pool_rows.lowering("cuda", x=KINDS)
def _(low: Low, node: Tensor) -> None:
    x, where, table, *gated = map(low.operand, node.sources)
    gates, bias = gated if gated else (None, None)
    y, apart = low.result(node), (x.strides[0], gates.strides[0] if gates else 0)

    def make(at: At) -> list[Call]:
        given = at(x), at(where), at(table), *((at(gates), at(bias)) if gates and bias else (None, None))
        shape = at.n(node.shape[0]), int(node.shape[1]), node.attrs["size"], node.attrs["overlap"]
        return [pool(KINDS[x.type.dtype], given, at(y), *shape, apart)]

    low.launch(make, x, where, table, *gated, Out(y))
