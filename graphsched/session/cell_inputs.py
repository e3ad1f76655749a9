"""The arrays by which a run finds the cells of its sequences: tables, and where each row and each cell is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.arch.cells import blocks_of
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.session.cells import Blocks, Ints, spread
from graphsched.session.rows import Integers, Runs
from graphsched.types.extents import CELL_BLOCK

Arrays = Mapping[str, NDArray[Any]]  # by the names of inputs
Some = int | Integers  # one for all, or one for each
_IN_BLOCK = np.arange(CELL_BLOCK, dtype=np.int32)


class CellInputs:
    """The arrays of a kind of cells that a run reads, filled for its rows (`arch.cells`)."""

    def __init__(self, blocks: Blocks, kind: str, arrays: Arrays) -> None:
        self.blocks = blocks
        self.where = arrays[f"inp_where{kind}"]
        unread = np.zeros(blocks.tables.size, np.int32)  # where all cells are gathered, no op reads the table
        self.table = arrays.get(f"inp_table{kind}", unread)
        self.ids = arrays.get(f"inp_cells{kind}")  # not there where layers only read what others store
        self.own_ids: Ints | None = None
        self.own_cells: Ints | None = None
        self._shown = (-1, -1)  # the slot whose table is in `table`, and how often tables had changed then

    def gather(self, kind: str, arrays: Arrays) -> None:
        """Fills the arrays by which a run gathers cells from now on, too, as far as a graph has them."""
        self.own_ids = arrays.get(f"inp_own_ids{kind}", self.own_ids)
        self.own_cells = arrays.get(f"inp_own_cells{kind}", self.own_cells)
        if (own_table := arrays.get(f"inp_own_table{kind}")) is not None:
            own_table[:] = np.arange(len(own_table))

    @property
    def most(self) -> int:
        """Entries of tables that a run may have."""
        return len(self.table) if self.own_ids is None else len(self.own_ids) // CELL_BLOCK

    def entries(self, runs: Runs) -> int:
        """Entries of the tables of sequences."""
        return int((self.blocks.end[runs.slots] - self.blocks.first[runs.slots]).sum())

    def fill(self, runs: Runs, position: Ints) -> int:
        """Fills all arrays for rows; returns the entries of their sequences' tables."""
        b = self.blocks
        if len(runs.slots) == 1:
            slot = runs.slots.item()
            return self._fill_one(slot, position, b.first.item(slot), b.end.item(slot))
        first, counts = b.first[runs.slots], b.end[runs.slots] - b.first[runs.slots]
        begins = np.cumsum(counts) - counts  # of each sequence's table in the array
        total = int(counts.sum())
        self.table[:total] = b.tables[spread(runs.slots, first, counts)]
        rows = np.repeat(np.arange(len(runs.slots)), runs.counts)
        self._fill_rows(runs.slots[rows], position, (begins - first)[rows], self.table[:total])
        self._shown = (-1, -1)
        if self.own_ids is not None:
            owner = np.repeat(np.arange(len(runs.slots)), counts)
            entry = np.arange(total) - np.repeat(begins - first, counts)
            self._fill_own(total, runs.slots[owner], entry, runs.end[owner])
        return total

    def _fill_one(self, slot: int, position: Ints, first: int, end: int) -> int:
        n = end - first
        if self._shown != (slot, self.blocks.changes):
            self.table[:n] = self.blocks.tables[slot, first:end]
            self._shown = slot, self.blocks.changes
        if len(position) == 1 and self.ids is not None:  # each step of a generation
            at = position.item()
            self.where[0] = slot, at, -first
            self.ids[0] = self.table.item(at // CELL_BLOCK - first) * CELL_BLOCK + at % CELL_BLOCK
        else:
            self._fill_rows(slot, position, -first, self.table)
        if self.own_ids is not None:
            self._fill_own(n, slot, np.arange(first, end), int(position[-1]) + 1)
        return n

    def _fill_rows(self, slot: Some, position: Ints, first_entry: Some, table: Ints) -> None:
        """The rows' (slot, position, first entry), and the cells in which they are stored."""
        n = len(position)
        self.where[:n, 0], self.where[:n, 1], self.where[:n, 2] = slot, position, first_entry
        if self.ids is not None:
            blocks = table[self.where[:n, 2] + position // CELL_BLOCK]
            np.add(blocks * CELL_BLOCK, position % CELL_BLOCK, out=self.ids[:n])

    def _fill_own(self, n: int, slot: Some, entry: Integers, end: Some) -> None:
        """Where the cells of all entries are, and what each holds."""
        assert self.own_ids is not None
        self.own_ids[: n * CELL_BLOCK] = (self.table[:n, None] * CELL_BLOCK + _IN_BLOCK).reshape(-1)
        if self.own_cells is not None:
            cells = self.own_cells[: n * CELL_BLOCK].reshape(n, CELL_BLOCK, 2)
            cells[:, :, 1] = entry[:, None] * CELL_BLOCK + _IN_BLOCK
            cells[:, :, 0] = np.where(
                cells[:, :, 1] < np.reshape(end, (-1, 1)), np.reshape(slot, (-1, 1)), -1
            )


def cell_inputs(
    graph: Graph, arrays: Arrays, caches: Mapping[str, Sequence[Tensor]], n_slots: int, n_ctx: int
) -> Mapping[str, CellInputs]:
    """The pools of a graph's kinds of cells, and the arrays by which runs find cells."""
    where = {leaf.name: leaf for leaf in graph.leaves if leaf.name.startswith("inp_where")}
    found = {}
    for kind, leaves in caches.items():
        n_blocks = int(leaves[0].shape[0]) // CELL_BLOCK
        blocks = Blocks(where[f"inp_where{kind}"], n_blocks, n_slots, blocks_of(n_ctx))
        found[kind] = CellInputs(blocks, kind, arrays)
    return found
