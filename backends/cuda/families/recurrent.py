"""Launches of recurrent.cu: ops that read and change rows of state in place; strides in floats."""

from collections.abc import Sequence
from dataclasses import dataclass

from graphsched.backends.cuda.families.dense import as_it_lies, whole_rows
from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.lowering import At, Low
from graphsched.graph import ops
from graphsched.graph.tensor import Tensor
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes

WIDTHS = (16, 32, 64, 128, 256, 512)  # elements of a row of state that kernels are built for
MOST_TAPS = 8
PARTS = 16  # of the tokens: sequences that begin in different ones are computed at the same time
THREADS = 128

Strides = tuple[int, int]  # of tokens, of heads


@dataclass(frozen=True)
class Where:
    """(slot, position, ...) of tokens, `row` integers apart."""

    at: Address
    tokens: int
    row: int = 3

    @property
    def parts(self) -> int:
        """Of the tokens: a part each, as long as they are few."""
        return min(self.tokens, PARTS)


def width_of(k: int) -> int | None:
    """The narrowest width for rows of k elements; None if they are too long."""
    return next((w for w in WIDTHS if k <= w), None)


def rows_of_block(width: int) -> int:
    """Rows that a block has; its threads share them out as recurrent.cu's gs_lanes says."""
    return THREADS // (4 if width <= 16 else 8 if width <= 128 else width // 16)


def ssm_conv(
    state: Address, x: Address, w: Address, y: Address, where: Where, shape: tuple[int, int], rows: Strides
) -> Call:
    """Causal convolution of each channel; shape (channels, taps), strides of x's tokens and of w's channels."""
    channels, taps = shape
    args = (state, x, w, y, where.at, where.tokens, where.row, channels, taps, *rows)
    return Call("recurrent", (), "ssm_conv", (up(channels, 256), where.parts), 256, args)


def gated_delta_net(
    operands: Sequence[Address],
    state: Address,
    y: Address,
    where: Where,
    shape: tuple[int, int, int, int],
    apart: Sequence[Strides],
    by_channel: bool,
    tiled: bool,
) -> Call:
    """operands: q, k, v, g, beta, their strides `apart`; shape (value heads, key heads, dk, dv)."""
    heads, keys, dk, dv = shape
    width = width_of(dk)
    assert width
    args = (*operands, state, y, where.at, where.tokens, where.row, heads, keys, dk, dv, int(tiled))
    return _rows("delta", width, by_channel, heads * dv, where, (*args, *(n for pair in apart for n in pair)))


def ssm_scan(
    operands: Sequence[Address],
    state: Address,
    y: Address,
    where: Where,
    shape: tuple[int, int, int, int],
    apart: Sequence[int],
    by_channel: bool,
) -> Call:
    """operands: x, dt, a, b, c; shape (heads, width of one, groups, n); `apart` as the kernel has its strides."""
    heads, width_of_head, _, n = shape
    width = width_of(n)
    assert width
    args = (*operands, state, y, where.at, where.tokens, where.row, *shape, *apart)
    return _rows("ssm_scan", width, by_channel, heads * width_of_head, where, args)


def _rows(
    stem: str, width: int, by_channel: bool, rows: int, where: Where, args: tuple[Address, ...]
) -> Call:
    name = f"{stem}_channels_{width}" if by_channel else f"{stem}_{width}"
    return Call(
        "recurrent", (str(width),), name, (up(rows, rows_of_block(width)), where.parts), THREADS, args
    )


# ---- lowered

F32 = (dtypes.F32,)


def _per_head(x: Operand) -> Strides:
    """Strides of [tokens, heads], or [tokens, heads, k]."""
    return x.strides[0] // 4, x.strides[1] // 4


def _where(at: At, x: Operand) -> Where:
    return Where(at(x), at.n(x.type.shape[0]), x.strides[0] // 4)


@ops.ssm_conv.lowering(
    "cuda", when=lambda node: int(node.sources[2].shape[1]) <= MOST_TAPS, state=F32, x=F32, w=F32
)
def _(low: Low, node: Tensor) -> None:
    state, x, _, where = map(low.operand, node.sources)
    w = as_it_lies(low, node.sources[2])
    x, y, shape = whole_rows(low, x), low.result(node), (int(w.type.shape[0]), int(w.type.shape[1]))
    rows = x.strides[0] // 4, w.strides[0] // 4
    low.launch(
        lambda at: [ssm_conv(at(state), at(x), at(w), at(y), _where(at, where), shape, rows)],
        state,
        x,
        w,
        where,
        Out(state),
        Out(y),
    )


@ops.gated_delta_net.lowering(
    "cuda",
    when=lambda node: int(node.sources[1].shape[2]) <= WIDTHS[-1],
    state=F32,
    q=F32,
    k=F32,
    v=F32,
    g=F32,
    beta=F32,
)
def _(low: Low, node: Tensor) -> None:
    state, *operands, where = map(low.operand, node.sources)
    by_channel, y = len(node.sources[4].shape) == 3, low.result(node)
    rows = [whole_rows(low, x) if len(x.type.shape) == 3 else x for x in operands]
    keys, dk = map(int, node.sources[1].shape[1:])
    shape = int(node.shape[1]), keys, dk, int(node.shape[2])
    apart, tiled = [_per_head(x) for x in rows], node.attrs["tiled"]

    def make(at: At) -> list[Call]:
        given = [at(x) for x in rows], at(state), at(y), _where(at, where)
        return [gated_delta_net(*given, shape, apart, by_channel, tiled)]

    low.launch(make, state, *rows, where, Out(state), Out(y))


@ops.ssm_scan.lowering(
    "cuda",
    when=lambda node: int(node.sources[4].shape[2]) <= WIDTHS[-1],
    state=F32,
    x=F32,
    dt=F32,
    a=F32,
    b=F32,
    c=F32,
)
def _(low: Low, node: Tensor) -> None:
    state, x, dt, _, b, c, where = map(low.operand, node.sources)
    a = as_it_lies(low, node.sources[3])
    x, b, c = (whole_rows(low, o) for o in (x, b, c))
    y, by_channel, (heads, width) = low.result(node), int(a.type.shape[1]) > 1, map(int, node.shape[1:])
    groups, n = map(int, node.sources[4].shape[1:])
    read = x, dt, a, b, c
    apart = [*_per_head(x), *_per_head(dt), a.strides[0] // 4, *_per_head(b), *_per_head(c)]

    def make(at: At) -> list[Call]:
        given = [at(o) for o in read], at(state), at(y), _where(at, where)
        return [ssm_scan(*given, (heads, width, groups, n), apart, by_channel)]

    low.launch(make, state, *read, where, Out(state), Out(y))
