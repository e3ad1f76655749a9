"""A sequence in the host's memory: bytes of its cells, of its recurrent state and of checkpoints, from any device."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphsched.errors import ContextError
from graphsched.session.cells import oldest_seen
from graphsched.session.rows import Tokens
from graphsched.session.slots import Arrays, Block, Slots
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
        return self.tokens.nbytes + sum(array.nbytes for part in self._parts() for array in part.values())

    def nearest(self, n_past: int) -> int:
        """As `Sequence.nearest`: where one is when it is restored and goes back."""
        most = min(n_past, len(self.tokens))
        there = (
            n for n in self.places or (most,) if n <= most and all(self._holds(k, n) for k in self.cells)
        )
        return max(there, default=0)

    def fits(self, slots: Slots) -> bool:
        """Whether it can be a sequence of these slots: all kinds of cells, and rows of the size of each cache."""
        n = len(self.tokens)
        if set(self.cells) != set(slots.inputs) or bool(self.places) != slots.has_state:
            return False
        if self.places and (self.places[-1] != n or list(self.places) != sorted({*self.places} - {0})):
            return False
        sizes = {name: values.shape[1] for block in self._parts() for name, values in block.items()}
        blocks = self.cells.values()
        return sizes == slots.row_bytes and all(0 <= b.first <= b.end == -(-n // CELL_BLOCK) for b in blocks)

    def _parts(self) -> list[Arrays]:
        return [*(block.values for block in self.cells.values()), self.states]

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


def restore(empty: "Sequence", saved: Saved) -> None:
    """Makes an empty sequence what was saved. ContextError if there are too few free cells: then it stays empty.

    Of checkpoints there are as many as there are free rows for, the last ones.
    """
    slots = empty.engine.slots
    if not slots.has_free(saved.cells):
        raise ContextError("there are too few free cells for a sequence that was saved; more are -c N")
    n_checkpoints = max(len(saved.places) - 1, 0)
    rows = [row for _ in range(min(n_checkpoints, slots.n_checkpoints)) if (row := slots.row()) is not None]
    kept = slice(n_checkpoints - len(rows), None)
    states = {name: values[kept] for name, values in saved.states.items()}
    slots.restore(empty.slot, saved.cells, [*rows, empty.slot] if slots.has_state else [], states)
    empty.adopt(saved.tokens, zip(saved.places[kept], rows, strict=False))
