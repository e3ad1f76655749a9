"""What the attention kernels share: the positions that a token sees, where they are, and the chunks to read them in."""

import math

import numpy as np

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import get, put
from graphsched.backends.cpu.language.soft_max import one_exp
from graphsched.backends.cpu.language.vector import F32, I32
from graphsched.graph.tensor import Tensor
from graphsched.types.extents import CELL_BLOCK

CHUNK = 256  # positions per pass: their scores are 1 KB
SCORES = 4 * CHUNK  # bytes from the scores of one query to those of the next
KV_CHUNK = 4 * CHUNK  # positions of a split-KV chunk: what one unit of a single token reads
ALIGN = 16  # positions of a sequence are always in the same lanes, so that bits depend on no other query of a tile
WHERE = 12  # bytes of (slot of the sequence, position, first entry of its table)
# What the flash attention kernels take: strides and per_thread (scratch of each thread) in bytes, dim and v_dim in
# elements. window, chunk, cap and max_bias are 0 where there is none.
ATTENTION = (
    "q k v where table sinks? -> y scratch"
    " | dim v_dim group heads q_token q_head k_token k_head v_token v_head window chunk per_thread"
    " | scale cap max_bias"
)
LN_2 = math.log(2.0)
Query = tuple[int, int, int, int]


def in_whole_blocks(node: Tensor) -> bool:
    """Whether keys and values, second and third of its operands, are whole blocks of their types in every head."""
    return all(s.shape[-1] % s.dtype.block == 0 for s in node.sources[1:3])


@helper
def query_at(where: int, window: int, chunk: int) -> Query:
    """(slot of its sequence, position, last position unseen, first entry of its table) of the token at `where`."""
    pos = get(where + 4, I32)
    return get(where, I32), pos, last_unseen(pos, window, chunk), get(where + 8, I32)


@helper
def last_unseen(pos: int, window: int, chunk: int) -> int:
    """The position up to which a token at pos sees nothing: outside its window, or before its chunk; -1 if none."""
    oldest = pos - window if window and pos >= window else -1
    if chunk and pos // chunk * chunk - 1 > oldest:
        oldest = pos // chunk * chunk - 1
    return oldest


@helper
def sees(query: Query, position: int) -> bool:
    """Whether a query (`query_at`) sees a position of its sequence."""
    return position <= query[1] and position > query[2]


@helper
def slope(max_bias: float, head: int, heads: int) -> float:
    """ALiBi's slope of a head, see the op's `slopes`."""
    n = 1
    while 2 * n <= heads:
        n *= 2
    place = head + 1.0 if head < n else head - n + 0.5
    return one_exp(np.float32(-LN_2 * max_bias * place / n))


@helper
def lean(n: int, scores: int, slope: float, first: int, position: int) -> None:
    """Adds ALiBi's bias to the scores that a token at `position` gives n positions from `first` on."""
    for i in range(n):
        s = get(scores + 4 * i, F32) + np.float32(slope * (first + i - position))
        put(scores + 4 * i, s, F32)


@helper
def cell_at(table: int, position: int) -> int:
    """The cell of a position; the blocks of its sequence are listed at `table`."""
    return get(table + position // CELL_BLOCK * 4, I32) * CELL_BLOCK + position % CELL_BLOCK


@helper
def block_end(position: int) -> int:
    """The position behind the last one of a position's block: up to there cells follow each other."""
    return (position // CELL_BLOCK + 1) * CELL_BLOCK


@helper
def n_kv_chunks(query: Query) -> int:
    """How many split-KV chunks hold what a query sees. They begin at multiples of KV_CHUNK."""
    return query[1] // KV_CHUNK - (query[2] + 1) // KV_CHUNK + 1


@helper
def kv_chunk_range(query: Query, kv_chunk: int) -> tuple[int, int]:
    """Positions [begin, end) of a split-KV chunk of what a query sees."""
    start, first = ((query[2] + 1) // KV_CHUNK + kv_chunk) * KV_CHUNK, (query[2] + 1) // ALIGN * ALIGN
    return max(start, first), min(start + KV_CHUNK, query[1] + 1)
