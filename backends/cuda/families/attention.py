"""Launches of attention.cu and prompt.cu: queries over the cells of their sequences, which tables name."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from graphsched.backends.cuda.families import rows
from graphsched.backends.cuda.families.dense import contiguous
from graphsched.backends.cuda.launch.call import Address, Call, up
from graphsched.backends.cuda.launch.lowering import At, Low
from graphsched.errors import ShapeError
from graphsched.graph import ops
from graphsched.graph.tensor import Extent, Tensor, TensorType
from graphsched.run.operand import Operand, Out
from graphsched.types import dtypes
from graphsched.types.extents import N_SEQUENCES

LOG2E = math.log2(math.e)
MOST_HEADS = 8  # query heads that a block takes at once
REGISTERS = 128  # floats of a lane for queries and outputs
ALONE = 144  # the most that they may be for one head


@dataclass(frozen=True)
class Heads:
    """Query and key-value heads, their widths, and the cache's strides in bytes."""

    heads: int
    kv_heads: int
    dk: int
    dv: int
    k_pos: int
    k_head: int
    v_pos: int
    v_head: int


@dataclass(frozen=True)
class Mask:
    """(slot, position, first entry of the table) of tokens, in device memory; window, chunk, ALiBi's bias."""

    where: Address
    window: int = 0
    chunk: int = 0
    max_bias: float = 0.0


def lanes_of(dk: int, dv: int) -> int:
    """Lanes that share a position, as attention.cu's gs_lanes."""
    lanes = 32
    while lanes and (dk % (8 * lanes) or dv % (8 * lanes)):
        lanes //= 2
    if lanes and (dk + dv) // lanes <= ALONE:
        return lanes
    lanes = max(lanes, 1)
    while _pieces(dk, dv, lanes) > 8:
        lanes *= 2
    return lanes


def _pieces(dk: int, dv: int, lanes: int) -> int:
    """Pieces of 8 elements of keys and values that a lane has."""
    return up(dk, 8 * lanes) + up(dv, 8 * lanes)


def heads_at_once(dk: int, dv: int, group: int) -> int:
    """Query heads of a block: what they share is read once, what each keeps has to fit the registers."""
    each, n = 8 * _pieces(dk, dv, lanes_of(dk, dv)), 1
    while n < min(group, MOST_HEADS) and 2 * n * each <= REGISTERS:
        n *= 2
    return n


def scales(scale: float, cap: float) -> tuple[float, float]:
    """What the kernels take: scores are logarithms to base 2."""
    return (scale / cap, cap * LOG2E) if cap else (scale * LOG2E, 0.0)


def chunk_of(h: Heads, tokens: int, capacity: int, sms: int = 132) -> int:
    """Positions of one chunk, at least 64: about four blocks a multiprocessor at full length, up to 16 of many heads.

    A few tokens have the chunks of one, so that bits do not depend on their number; more have those of a power of two.
    """
    tokens = 1 if tokens < PROMPT_FROM else 1 << tokens.bit_length() - 1
    blocks = max(4 * h.kv_heads, h.kv_heads * sets_of(h))
    chunks = max(1, up(16 * sms, blocks * tokens))
    return max(64, up(up(capacity, chunks), 64) * 64)


def sets_of(h: Heads) -> int:
    """Blocks that share out the query heads of a key-value head."""
    group = h.heads // h.kv_heads
    return up(group, heads_at_once(h.dk, h.dv, group))


def attention(
    kind: str,
    q: Address,
    k: Address,
    v: Address,
    table: Address,
    mask: Mask,
    partials: Address,
    y: Address,
    h: Heads,
    tokens: int,
    capacity: int,
    scale: float,
    sinks: Address = None,
    cap: float = 0.0,
    sms: int = 132,
    of_values: str = "",
) -> tuple[Call, Call]:
    """Partial results, then their merge; q, y [tokens, heads, width] dense; partials: partial_floats() floats.

    table: blocks of the tokens' sequences. capacity: the most cells of a sequence. kind: of KINDS; of_values: where
    values have another type than keys.
    """
    kinds = kind, of_values or kind
    if h.dk % 8 or h.dv % 8:
        if not {*kinds} <= {*UNEVEN}:
            raise ShapeError(f"attention: no kernel for heads of {h.dk} and {h.dv} in blocks")
        kinds = f"{kinds[0]}s", f"{kinds[1]}s"  # rows start anywhere
    group = h.heads // h.kv_heads
    chunk = chunk_of(h, tokens, capacity, sms)
    per, chunks = heads_at_once(h.dk, h.dv, group), up(capacity, chunk)
    strides = (h.k_pos, h.k_head, h.v_pos, h.v_head, h.dk, h.heads * h.dk)
    args = (q, k, v, mask.where, table, partials, h.heads, h.kv_heads, *strides, *scales(scale, cap))
    sizes = chunk, mask.window, mask.chunk
    shape = f"{kinds[0]}_{kinds[1]}_{h.dk}_{h.dv}_{per}"
    grid = (h.kv_heads * sets_of(h), chunks, tokens)
    first = Call("attention", (shape,), f"attention_{shape}", grid, 128, (*args, *sizes, mask.max_bias))
    merge = (partials, sinks, mask.where, y, chunks, h.dv, h.dv, h.heads * h.dv, *sizes)
    return first, Call(
        "attention", (), "attention_merge", (h.heads, tokens), min(256, up(h.dv, 32) * 32), merge
    )


def partial_floats(h: Heads, tokens: int, capacity: int, sms: int = 132) -> int:
    """Floats of scratch that attention() needs."""
    return tokens * h.heads * up(capacity, chunk_of(h, tokens, capacity, sms)) * (h.dv + 2)


ROWS = 64  # pairs of (token, query head) that a block takes
PROMPT_SHAPES = {(64, 64): 64, (128, 128): 64, (192, 128): 32}  # positions of a tile


def prompt(
    q: Address,
    k: Address,
    v: Address,
    table: Address,
    mask: Mask,
    y: Address,
    h: Heads,
    tokens: int,
    scale: float,
    sinks: Address = None,
    cap: float = 0.0,
    sequences: int = 1,
) -> Call:
    """Many queries over an f16 cache, on the tensor cores; q, y [tokens, heads, width] dense. No scratch.

    sequences: how many the tokens are of; only a matter of speed.
    """
    if (h.dk, h.dv) not in PROMPT_SHAPES:
        raise ShapeError(f"prompt: no kernel for heads of {h.dk} and {h.dv}; there are {list(PROMPT_SHAPES)}")
    strides = (h.k_pos // 2, h.k_head // 2, h.v_pos // 2, h.v_head // 2, h.dk, h.heads * h.dk)
    args = (q, k, v, mask.where, table, sinks, y, tokens, h.heads, h.kv_heads, *strides, *scales(scale, cap))
    group = h.heads // h.kv_heads
    grid = (up(tokens * group, ROWS), h.kv_heads, min(sequences, up(ROWS, group) + 1))
    shared = 2 * PROMPT_SHAPES[h.dk, h.dv] * (h.dk + h.dv) * 2
    name = f"prompt_{h.dk}_{h.dv}"
    return Call("prompt", (), name, grid, 128, (*args, mask.window, mask.chunk, mask.max_bias), shared)


# ---- lowered

KINDS = {t: t.name.lower().replace("_", "") for t in dtypes.KV_TYPES}  # as cache.cuh calls them
UNEVEN = ("f16", "bf16", "f32")  # whose rows may start anywhere
AS_HALVES = ("f16", *(KINDS[t] for t in dtypes.KV_TYPES if t.block > 1))  # what prompts can read as float16
PROMPT_FROM = 16  # tokens


def halves(
    kind: str,
    x: Address,
    y: Address,
    table: Address,
    used: Address,
    shape: tuple[int, int, int],
    strides: tuple[int, int],
) -> Call:
    """Cells of quantised types as float16, dense: those of the blocks that `used` entries of a table name.

    shape (cells, heads, k) of all of them, strides of cells and heads.
    """
    cells, heads, k = shape
    grid = (up(cells * heads * k // 8, 256),)
    return Call("prompt", (), f"halves_{kind}", grid, 256, (x, y, table, used, heads, k, *strides))


def _has_kernel(node: Tensor) -> bool:
    return not any(c.shape[2] % c.dtype.block for c in node.sources[1:3])


@dataclass(frozen=True)
class Halves:
    """A cache that prompts read as float16: itself, or a copy that is made for each."""

    cache: Operand
    copy: Operand | None

    @property
    def strides(self) -> tuple[int, int]:
        """Bytes from cell to cell and from head to head."""
        return (self.copy or self.cache).strides[:2]  # type: ignore[return-value]

    def at(self, at: At) -> int:
        """The address of the halves."""
        return at(self.copy or self.cache)

    def calls(self, at: At, table: Address, used: Address) -> list[Call]:
        """Launches the copy of blocks that `used` entries of a table name; nothing where the cache itself is read."""
        if self.copy is None:
            return []
        c = self.cache
        cells, heads, k = map(int, c.type.shape)
        args = KINDS[c.type.dtype], at(c), at(self.copy), table, used
        return [halves(*args, (cells, heads, k), (c.strides[0], c.strides[1]))]


def _as_halves(low: Low, cache: Operand) -> Halves:
    if cache.type.dtype.block == 1:
        return Halves(cache, None)
    return Halves(cache, low.scratch("cache as halves", TensorType(dtypes.F16, cache.type.shape)))


@cache
def _scratch(h: Heads, tokens: int, capacity: int, sms: int) -> int:
    """Floats that any number of tokens needs at most: fewer take shorter chunks."""
    return max(partial_floats(h, t, capacity, sms) for t in range(1, tokens + 1))


@ops.flash_attn_ext.lowering("cuda", when=_has_kernel, q=(dtypes.F32,), k=KINDS, v=KINDS)
def _(low: Low, node: Tensor) -> None:
    q, k, v, where, table, *sinks = map(low.operand, node.sources)
    q, y, a, sms = contiguous(low, q), low.result(node), node.attrs, low.sms
    kinds = KINDS[k.type.dtype], KINDS[v.type.dtype]
    (_, n_head, dk), dv = node.sources[0].shape, int(node.shape[2])
    h = Heads(n_head, k.type.shape[1], dk, dv, k.strides[0], k.strides[1], v.strides[0], v.strides[1])
    capacity, used = int(k.type.shape[0]), low.length(table.type.shape[0])
    partials = low.floats("attention partials", _scratch(h, int(node.shape[0]), capacity, sms))
    prompts = int(node.shape[0]) >= PROMPT_FROM and {*kinds} <= {*AS_HALVES} and (dk, dv) in PROMPT_SHAPES
    caches = (_as_halves(low, k), _as_halves(low, v)) if prompts else ()
    copies = [c.copy for c in caches if c.copy]
    of_sequences = Extent(1, N_SEQUENCES)  # one where nobody says how many

    def make(at: At) -> Sequence[Call]:
        tokens, sink = at.n(node.shape[0]), at(sinks[0]) if sinks else None
        sequences = at.n(of_sequences) if caches else 1
        mask, blocks = Mask(at(where), a["window"], a["chunk"], a["max_bias"]), at(table)
        scale, cap = a["scale"], a["softcap"]
        if caches and tokens - sequences + 1 >= PROMPT_FROM:  # not one token each
            keys, values = caches
            as_halves = Heads(n_head, h.kv_heads, dk, dv, *keys.strides, *values.strides)
            copied = [call for cache in caches for call in cache.calls(at, blocks, used(at))]
            many = at(q), keys.at(at), values.at(at), blocks, mask, at(y), as_halves, tokens
            return [*copied, prompt(*many, scale, sink, cap, sequences)]
        args = at(q), at(k), at(v), blocks, mask, at(partials), at(y), h, tokens, capacity
        return attention(kinds[0], *args, scale, sink, cap, sms, kinds[1])

    low.launch(make, q, k, v, where, table, *sinks, *map(Out, copies), Out(partials), Out(y))


@ops.soft_max.lowering("cuda", when=lambda node: len(node.sources) == 1, x=(dtypes.F32,))
def _(low: Low, node: Tensor) -> None:
    x, y = contiguous(low, low.operand(node.sources[0])), low.result(node)

    def make(at: At) -> list[Call]:
        n, heads, k = at.shape(node.type)
        return [rows.soft_max(at(x), at(y), n * heads, k, node.attrs["scale"])]

    low.launch(make, x, Out(y))
