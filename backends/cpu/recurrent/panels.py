"""A thread's scratch for chunks of tokens, and a matrix in it: transposed, in panels of 16 rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.lanes import clear
from graphsched.backends.cpu.language.simd import splat, store
from graphsched.backends.cpu.language.transpose import transpose
from graphsched.backends.cpu.language.vector import F32
from graphsched.backends.cpu.program.lowering import Low
from graphsched.backends.cpu.recurrent.common import is_first
from graphsched.graph.tensor import Tensor

CHUNK = 16  # tokens of a chunk, and rows of a panel
ROW = 4 * CHUNK  # bytes of a number for each token, or for each row of a panel
_SQUARE = ROW * CHUNK
_VECTORS = 6


class Room(NamedTuple):
    """Addresses in a thread's scratch.

    keys, queries [dk][token]; read_keys, read_queries: the same times the decay from the chunk's first token on,
    grow_keys: keys times the decay to its last; where decays are numbers per head these are the plain ones, and `lost`,
    `read` and `to_last` have the decays. products: k_t·k_s decayed from s to t, 0 where s >= t, [t][s]; weights: P.
    change, grown: U, and U times `to_last`, [token][row]. Of each token g: g, rate: its factor of u, to_last: decay,
    lost: factor of what is read with its key, read: of what is read with its query. kept: the decay of the whole chunk,
    one number, or one for each element of k, kept_step bytes apart. steps: 16 ones and 16 zeros. matrix: panels
    [dk][row]. Only of decays per element of k: decays [token][dk], decay_columns [dk][token], rows: room for rows that
    become columns, unit: 16 zeros, a one, 15 zeros.
    """

    keys: int
    queries: int
    read_keys: int
    read_queries: int
    grow_keys: int
    products: int
    weights: int
    change: int
    grown: int
    steps: int
    g: int
    rate: int
    to_last: int
    lost: int
    read: int
    kept: int
    kept_step: int
    matrix: int
    decays: int
    decay_columns: int
    rows: int
    unit: int


def room_bytes(dk: int, rows: int) -> int:
    """Scratch that a thread needs for chunks of so many rows of a matrix."""
    return 2 * ROW * dk + 4 * _SQUARE + (2 + _VECTORS) * ROW + 4 * dk * rows


@helper
def room_at(scratch: int, dk: int) -> Room:
    """The parts of a thread's scratch, with `steps` filled in."""
    queries, squares = scratch + ROW * dk, scratch + 2 * ROW * dk
    steps = squares + 4 * _SQUARE
    store(steps, splat(1.0, 16), F32)
    store(steps + ROW, splat(0.0, 16), F32)
    g = steps + 2 * ROW
    return Room(
        scratch,
        queries,
        scratch,
        queries,
        scratch,
        squares,
        squares + _SQUARE,
        squares + 2 * _SQUARE,
        squares + 3 * _SQUARE,
        steps,
        g,
        g + ROW,
        g + 2 * ROW,
        g + 3 * ROW,
        g + 4 * ROW,
        g + 5 * ROW,
        0,
        g + 6 * ROW,
        0,
        0,
        0,
        0,
    )


@helper
def matrix_to_panels(matrix: int, dk: int, rows: int, panels: int) -> None:
    """`rows` rows of a matrix -> panels [dk][16 rows]."""
    for r in range(0, rows, CHUNK):
        put_columns(matrix + 4 * r * dk, 4 * dk, dk, panels + 4 * r * dk)


@helper
def matrix_from_panels(matrix: int, dk: int, rows: int, panels: int) -> None:
    """Panels [dk][16 rows] -> `rows` rows of a matrix."""
    for r in range(0, rows, 4):
        panel = panels + 4 * (r // CHUNK * CHUNK) * dk + 4 * (r % CHUNK)
        for i in range(0, dk, CHUNK):
            transpose(panel + ROW * i, ROW, matrix + 4 * (r * dk + i), 4 * dk)


@helper
def put_columns(rows: int, stride: int, n: int, to: int) -> None:
    """16 rows of n floats -> [n][16]."""
    for i in range(0, n, 4):
        transpose(rows + 4 * i, stride, to + ROW * i, ROW)


def in_chunks(make_room: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., int]]:
    """Decorates `one_chunk(a, room, t, head, key, first, n)`, CHUNK tokens from t over n rows of a matrix.

    make_room(scratch, dk) gives the Room. The helper made runs `one_chunk` for the tokens of a run, from t to `end`, as
    far as they fill chunks; it returns the first that is left. matrix: where row `first` is, of dk floats as all are.
    """

    def attach(one_chunk: Callable[..., None]) -> Callable[..., int]:
        one = helper(one_chunk)

        @helper
        def whole_chunks(
            a: Any,
            matrix: int,
            dk: int,
            t: int,
            end: int,
            head: int,
            key: int,
            first: int,
            n: int,
            scratch: int,
        ) -> int:
            room = make_room(scratch, dk)
            if is_first(a.where, a.where_row, t):
                clear(n * dk, matrix)
            matrix_to_panels(matrix, dk, n, room.matrix)
            while end - t >= CHUNK:
                one(a, room, t, head, key, first, n)
                t += CHUNK
            matrix_from_panels(matrix, dk, n, room.matrix)
            return t

        return whole_chunks

    return attach


def takes_chunks(low: Low, node: Tensor) -> bool:
    """Whether a run may be long enough for a chunk, its matrices are whole panels, and bits may depend on chunks."""
    is_whole = not any(d % CHUNK for d in node.operand("state").shape[2:])
    return is_whole and int(node.shape[0]) >= CHUNK and not low.deterministic


def rows_of_unit(node: Tensor, n_threads: int) -> int:
    """Rows of a head's matrix that a thread takes through all chunks: all, if there are heads enough to share out.

    node: with results [tokens, heads, rows of a head's matrix].
    """
    _, heads, rows = node.shape
    unit = rows
    while heads * (rows // unit) < 2 * n_threads and unit % (2 * CHUNK) == 0:
        unit //= 2
    return unit
