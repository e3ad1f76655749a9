"""What the attention kernels share: which cells a token sees, and the chunks in which they are read."""

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import get
from graphsched.backends.cpu.language.vector import I32

CHUNK = 256  # cells per pass: their scores are 1 KB
KV_CHUNK = 4 * CHUNK  # positions of a split-KV chunk: what one unit of a single token reads
# What the flash attention kernels take: strides and per_thread (scratch of each thread) in bytes, dim and v_dim in
# elements, size in cells. window, chunk and cap are 0 where there is none.
ATTENTION = (
    "q k v where cells sinks? -> y scratch"
    " | dim v_dim group heads q_token q_head k_token k_head v_token v_head window chunk per_thread size"
    " | scale cap"
)


@helper
def first_cell(n_kv: int, size: int) -> int:
    """The oldest position that a cache of `size` cells still has a place for; position p is in cell p % size.

    A ring's size is a multiple of CHUNK, so that a chunk of positions is one of cells: they pass in the same chunks,
    and give the same bits, as those of a cache that keeps everything.
    """
    return n_kv - size if n_kv > size else 0


@helper
def n_kv_chunks(n_kv: int, size: int) -> int:
    """How many split-KV chunks hold the positions in use. They begin at multiples of KV_CHUNK, for any cache."""
    return (n_kv - 1) // KV_CHUNK - first_cell(n_kv, size) // KV_CHUNK + 1 if n_kv > 0 else 0


@helper
def kv_chunk_start(n_kv: int, size: int, kv_chunk: int) -> int:
    """The first position of a split-KV chunk: where it begins, or that of the oldest cell."""
    oldest = first_cell(n_kv, size)
    start = (oldest // KV_CHUNK + kv_chunk) * KV_CHUNK
    return start if start > oldest else oldest // CHUNK * CHUNK


@helper
def kv_chunk_end(n_kv: int, size: int, kv_chunk: int) -> int:
    """The position behind the last one of a split-KV chunk."""
    end = (first_cell(n_kv, size) // KV_CHUNK + kv_chunk + 1) * KV_CHUNK
    return end if end < n_kv else n_kv


@helper
def last_unseen(pos: int, window: int, chunk: int) -> int:
    """The position up to which a token at pos sees nothing: outside its window, or before its chunk; -1 if none."""
    oldest = pos - window if window else -1
    if chunk and pos // chunk * chunk - 1 > oldest:
        oldest = pos // chunk * chunk - 1
    return oldest


@helper
def chunk_range(n_kv: int, size: int, kv_chunk: int, split: int) -> tuple[int, int]:
    """Positions [begin, end) that one unit passes over: a split-KV chunk with `split`, else all in use."""
    if split:
        return kv_chunk_start(n_kv, size, kv_chunk), kv_chunk_end(n_kv, size, kv_chunk)
    return first_cell(n_kv, size) // CHUNK * CHUNK, n_kv


@helper
def query_at(where: int, window: int, chunk: int) -> tuple[int, int, int]:
    """(sequence, position, last position unseen) of the token whose (sequence, position) is at `where`."""
    pos = get(where + 4, I32)
    return get(where, I32), pos, last_unseen(pos, window, chunk)


@helper
def sees(query: tuple[int, int, int], cell: int) -> bool:
    """Whether a query (`query_at`) sees what is in the cell whose (sequence, position) is at `cell`."""
    seq, pos, oldest = query
    at = get(cell + 4, I32)
    return get(cell, I32) == seq and at <= pos and at > oldest
