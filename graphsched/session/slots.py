"""Slots of sequences: who has which blocks of cells and which rows of recurrent state, and copies of both."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import ContextError
from graphsched.session.cell_inputs import CellInputs
from graphsched.session.cells import Blocks, check_room
from graphsched.session.copies import Copier
from graphsched.session.rows import Aborted, Runs
from graphsched.types.extents import CELLS

Arrays = Mapping[str, NDArray[np.uint8]]  # by the names of caches
STATE: Final = "_state"  # kind of caches that have a row for each slot and checkpoint
KINDS: Final = {**CELLS, "": STATE}  # of caches by the word of their first dimension


class Block(NamedTuple):
    """A sequence's cells of one kind on the host: entries of its table from first to end, u8[entries, bytes] each."""

    first: int
    end: int
    values: Arrays


class Slots:
    """The n_slots sequences of an engine, their cells of each kind, and n_rows rows of state, if its model has any.

    Of the rows the first n_slots are the sequences' own, the others hold checkpoints.
    """

    def __init__(
        self,
        n_slots: int,
        inputs: Mapping[str, CellInputs],
        copiers: Mapping[str, Copier],
        n_rows: int,
        is_aborted: Callable[[], bool],
    ) -> None:
        self.inputs, self.n_slots = inputs, n_slots
        self.pools = [i.blocks for i in inputs.values()]
        self.has_state = STATE in copiers
        self._copiers, self._is_aborted = copiers, is_aborted
        self.n_checkpoints = n_rows // n_slots - 1 if n_rows else 0  # of each
        self._free = list(range(n_slots))[::-1]
        self._rows = list(range(n_slots, n_rows))[::-1]

    def open(self, slot: int | None = None) -> int:
        """A slot for a new sequence: the one that is asked for, or any. ContextError if it, or all are taken."""
        if not self._free:
            raise ContextError(f"all {self.n_slots} sequences are in use; more are -np N")
        if slot is None:
            return self._free.pop()
        if slot not in self._free:
            raise ContextError(f"slot {slot} is in use, or there is none; there are {self.n_slots}")
        self._free.remove(slot)
        return slot

    def close(self, slot: int) -> None:
        """Gives back a slot and what it has."""
        for pool in self.pools:
            pool.cut(slot, 0)
        self._free.append(slot)

    def fork(self, row: int | None, source: int, slot: int) -> bool:
        """Gives an empty slot all cells of another one, and a copy of the state in a row, if any.

        False if an abort came in between.
        """
        for pool in self.pools:
            pool.share(source, slot)
        return not self.has_state or row is None or self.copy_state(row, slot)

    def make_room(self, runs: Runs) -> None:
        """Gives sequences cells for their rows. ContextError if there are too few: then nothing has changed.

        Aborted during a copy: of each sequence there is what was there before.
        """
        for pool in self.pools:
            if not pool.is_ready(runs):
                break
        else:
            return
        if all(pool.can_grow(runs) for pool in self.pools):
            for pool in self.pools:
                pool.grow(runs)
            return
        check_room(self.pools, runs)
        for kind, inputs in self.inputs.items():
            self._copy_shared(kind, inputs.blocks, runs)
            inputs.blocks.take(runs)

    def saved(self, slot: int, rows: Sequence[int]) -> tuple[dict[str, Block], Arrays]:
        """Copies on the host: of a slot's cells by kind, and of rows of state."""
        cells = {kind: self._saved(kind, inputs.blocks, slot) for kind, inputs in self.inputs.items()}
        return cells, self._copiers[STATE].read(np.array(rows, np.int32)) if self.has_state else {}

    def _saved(self, kind: str, pool: Blocks, slot: int) -> Block:
        first, end = int(pool.first[slot]), int(pool.end[slot])
        return Block(first, end, self._copiers[kind].read(pool.tables[slot, first:end]))

    def restore(self, slot: int, cells: Mapping[str, Block], rows: Sequence[int], states: Arrays) -> None:
        """Gives an empty slot what was saved, for which there must be cells (`has_free`), and rows their states."""
        for kind, inputs in self.inputs.items():
            places = inputs.blocks.place(slot, cells[kind].first, cells[kind].end)
            self._copiers[kind].write(places, cells[kind].values)
        if self.has_state:
            self._copiers[STATE].write(np.array(rows, np.int32), states)

    def has_free(self, cells: Mapping[str, Block]) -> bool:
        """Whether there are free cells for what was saved."""
        pools = ((inputs.blocks, cells[kind]) for kind, inputs in self.inputs.items())
        return all(pool.n_free >= block.end - block.first for pool, block in pools)

    def row(self) -> int | None:
        """A row for a checkpoint; None if none is free."""
        return self._rows.pop() if self._rows else None

    @property
    def layout(self) -> dict[str, str]:
        """The type and shape of each cache's rows, by its name: what is saved fits where these are the same."""
        leaves = (leaf for copier in self._copiers.values() for leaf in copier.caches)
        return {leaf.name: f"{leaf.dtype}{list(map(int, leaf.shape[1:]))}" for leaf in leaves}

    @property
    def row_bytes(self) -> dict[str, int]:
        """Bytes of what is saved of each cache at once, by its name: a block of cells, a row of state."""
        return {name: n for copier in self._copiers.values() for name, n in copier.row_bytes.items()}

    def has_blocks(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of so many tokens have cells side by side, with no common beginning and nobody else."""
        return all(sum(map(pool.needed, lengths)) <= len(pool) for pool in self.pools)

    def too_many(self, runs: Runs) -> bool:
        """Whether runs have more entries of tables together than one forward reads."""
        return any(inputs.entries(runs) > inputs.most for inputs in self.inputs.values())

    def _copy_shared(self, kind: str, pool: Blocks, runs: Runs) -> None:
        for i in pool.shared(runs).nonzero()[0]:
            slot, position = int(runs.slots[i]), int(runs.first[i])
            if copied := pool.own_copy(slot, position):
                self._copiers[kind].copy(*copied)
                if self._is_aborted():
                    pool.take_back(slot, position, *copied)
                    raise Aborted

    def checkpoint(self, slot: int) -> int | None:
        """A row with a copy of the slot's state; None if no row is free, or an abort came in between."""
        row = self.row()
        if row is None or self.copy_state(slot, row):
            return row
        self._rows.append(row)
        return None

    def drop(self, row: int) -> None:
        """Gives back the row of a checkpoint."""
        self._rows.append(row)

    def copy_state(self, source: int, target: int) -> bool:
        """Copies the state of all layers from one row to another; False if an abort came in between."""
        self._copiers[STATE].copy(source, target)
        return not self._is_aborted()

    @property
    def n_free(self) -> tuple[int, ...]:
        """Free slots, rows of state, and blocks of each pool."""
        return len(self._free), len(self._rows), *(pool.n_free for pool in self.pools)
