"""KV-cache cells as inputs of a graph, and how many of them a layer needs.

Cells are those of one pool, in blocks of CELL_BLOCK; a sequence has a table of blocks. Of a layer that sees only a
window (or its chunk) a sequence keeps the blocks of the window and of a run's tokens, and gives older ones back.
"""

from dataclasses import dataclass

from graphsched.graph.tensor import Extent, Pool, Tensor, i32, input_tensor
from graphsched.types.extents import CELL_BLOCK, CELLS, ENTRIES, OWN

WINDOW_STEP = 256  # of the cells that a window keeps, as in llama.cpp


@dataclass(frozen=True)
class Cells:
    """Cells that layers of one kind keep keys and values in.

    n: of the pool. where i32[n_tokens, 3] = (slot of its sequence, position, first entry of the sequence's table) of
    each token, table i32[n_blocks] = the blocks of the run's sequences, ids i32[n_tokens] = the cell that each token is
    stored in.
    """

    n: Extent
    where: Tensor
    table: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Own:
    """The cells of a run's sequences, gathered: all blocks in the order of `cells.table`.

    ids i32[n] = where in the pool each is, cells i32[n, 2] = (slot, position) of each, -1 behind the last token, table
    = the blocks of what is gathered: a sequence's begin at the same entry as in the pool's table.
    """

    ids: Tensor
    cells: Tensor
    table: Tensor


def blocks_of(n_cells: int) -> int:
    """Blocks that hold so many cells."""
    return -(-n_cells // CELL_BLOCK)


def cells_of_sequences(n_sequences: int, n_tokens: int, n_shared: int = 0) -> int:
    """Cells of a context in which so many sequences have n_tokens each, of which the first n_shared are the same."""
    shared = n_shared // CELL_BLOCK * CELL_BLOCK
    own = n_tokens - shared
    return shared + (n_sequences - 1) * blocks_of(own) * CELL_BLOCK + own


def cells_input(n: Pool, n_tokens: Extent, n_entries: int, **mask: int) -> Cells:
    """Makes the inputs for a pool of n cells, named after the extent, whose tables have n_entries in all.

    mask: `window` and `chunk` of the layers that use them.
    """
    kind = CELLS[n.word]
    table = input_tensor(f"inp_table{kind}", i32(Extent(n_entries, ENTRIES[n.word])))
    where = input_tensor(f"inp_where{kind}", i32(n_tokens, 3), **mask)
    return Cells(n, where, table, input_tensor(f"inp_cells{kind}", i32(n_tokens)))


def own(table: Tensor, n_blocks: int) -> Own:
    """The inputs that gather the blocks which a table names, up to n_blocks."""
    kind = table.name.removeprefix("inp_table")
    seen = next(word for word, name in CELLS.items() if name == kind)
    cells = Extent(n_blocks * CELL_BLOCK, OWN[seen])
    ids = input_tensor(f"inp_own_ids{kind}", i32(cells))
    whose = input_tensor(f"inp_own_cells{kind}", i32(cells, 2))
    return Own(ids, whose, input_tensor(f"inp_own_table{kind}", table.type))


def window_cells(span: int, n_ubatch: int, n_kv: int) -> int:
    """Cells of a sequence for layers that see `span` positions, n_kv if that would save none."""
    inside = CELL_BLOCK - 2  # of a block, where the window may begin
    n = -(-(span + min(n_ubatch, n_kv) + inside) // WINDOW_STEP) * WINDOW_STEP
    return min(n, n_kv)
