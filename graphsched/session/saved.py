"""A sequence in the host's memory: bytes of its cells, of its recurrent state and of checkpoints, from any device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphsched.errors import ContextError
from graphsched.session.cells import oldest_seen
from graphsched.session.rows import Tokens
from graphsched.session.slots import Arrays, Block
from graphsched.types.extents import CELL_BLOCK

if TYPE_CHECKING:
    from graphsched.session.sequence import Sequence


@dataclass(frozen=True, eq=False)
class Saved:
    """A copy of a sequence. Blocks are whole: behind the last token there is what happened to be there.

    tokens i32[n_past]. places: positions whose states are in the rows of `states`, those of checkpoints first, in
    order, then n_past; () without recurrent state. spans: what a window or chunk lets tokens see, by kind of cells.
    """

    tokens: Tokens
    cells: Mapping[str, Block]
    places: tuple[int, ...]
    states: Arrays
    spans: Mapping[str, tuple[int, int]]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        cells = sum(array.nbytes for block in self.cells.values() for array in block.values.values())
        return cells + sum(array.nbytes for array in self.states.values()) + self.tokens.nbytes

    def nearest(self, n_past: int) -> int:
        """As `Sequence.nearest`: where one is when it is restored and goes back."""
        most = min(n_past, len(self.tokens))
        there = (
            n for n in self.places or (most,) if n <= most and all(self._holds(k, n) for k in self.cells)
        )
        return max(there, default=0)

    def _holds(self, kind: str, n_past: int) -> bool:
        oldest = oldest_seen(n_past, *self.spans[kind])
        return oldest >= self.cells[kind].first * CELL_BLOCK or n_past == 0


def saved(sequence: "Sequence") -> Saved:
    """A copy of a sequence, which is mended first if it is stale."""
    sequence.mend()
    slots = sequence.engine.slots
    rows = [*(c.row for c in sequence.checkpoints), sequence.slot] if slots.has_state else []
    places = [*(c.n_past for c in sequence.checkpoints), sequence.n_past] if slots.has_state else []
    cells, states = slots.saved(sequence.slot, rows)
    spans = {kind: (i.blocks.window, i.blocks.chunk) for kind, i in slots.inputs.items()}
    return Saved(sequence.tokens.copy(), cells, tuple(places), states, spans)


def restored(empty: "Sequence", saved: Saved) -> "Sequence":
    """An empty sequence with what was saved. ContextError if there are too few free cells; the sequence is then closed.

    Of checkpoints there are as many as there are free rows for, the last ones.
    """
    slots = empty.engine.slots
    n_checkpoints = max(len(saved.places) - 1, 0)
    rows = [row for _ in range(min(n_checkpoints, slots.n_checkpoints)) if (row := slots.row()) is not None]
    kept = slice(n_checkpoints - len(rows), None)
    states = {name: values[kept] for name, values in saved.states.items()}
    places = [*rows, empty.slot] if slots.has_state else []
    try:
        slots.restore(empty.slot, saved.cells, places, states)
    except ContextError:
        for row in rows:
            slots.drop(row)
        empty.close()
        raise
    positions = saved.places[kept][: len(rows)]
    empty.adopt(saved.tokens, list(zip(positions, rows, strict=True)))
    return empty
