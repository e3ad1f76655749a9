"""A sequence: the tokens that were read, its slot in the engine, and how far one can go back."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import ContextError
from graphsched.session.rows import Logits, Rows, Tokens
from graphsched.session.saved import Saved, restore, saved

if TYPE_CHECKING:
    from graphsched.session.engine import Engine


class Checkpoint(NamedTuple):
    """A copy of a sequence's recurrent state behind its first n_past tokens."""

    n_past: int
    row: int


class Sequence:
    """What one sequence holds: tokens at positions 0 to n_past - 1, whose cells and state are those of its slot.

    An engine makes it (`Engine.sequence`); `close` gives its slot back.
    """

    def __init__(self, engine: "Engine", slot: int) -> None:
        self.engine, self.slot, self.n_ctx, self.n_past = engine, slot, engine.n_ctx, 0
        self.checkpoints: list[Checkpoint] = []  # in the order of their positions
        self._tokens = np.zeros(self.n_ctx, np.int32)
        # Rows are parts of these: making arrays anew takes longer than all else that Python does for a token.
        self._slots = np.full(self.n_ctx, slot, np.int32)
        self._positions = np.arange(self.n_ctx, dtype=np.int32)
        self._wants = np.repeat([False, True], self.n_ctx)
        # Up to where cells and state are right: less than n_past, and -1, where an abort has left it so.
        self._cells = self._state = 0

    @property
    def tokens(self) -> Tokens:
        """The tokens that were read, i32[n_past]."""
        return self._tokens[: self.n_past]

    @property
    def is_stale(self) -> bool:
        """Whether tokens must be read again before others (`mend`), because an abort came in between."""
        return not self._state == self._cells == self.n_past

    @property
    def is_full(self) -> bool:
        """Whether no token fits behind it."""
        return self.n_past == self.n_ctx

    def rows(self, ids: Tokens, n_wanted: int) -> Rows:
        """The rows of a forward that reads tokens behind it; logits are wanted of the last n_wanted."""
        past, first = self.n_past, len(ids) - n_wanted  # rows that want no logits come first
        end = past + len(ids)
        wants = self._wants[self.n_ctx - first : self.n_ctx + n_wanted]
        return Rows(self._slots[past:end], self._positions[past:end], ids, wants)

    def check_room(self, n: int) -> None:
        """ContextError if so many tokens do not fit behind it."""
        if self.n_past + n > self.n_ctx:
            used = f"{self.n_past} are used and {n} more do not fit"
            raise ContextError(f"the context holds {self.n_ctx} tokens: {used}; a larger one is -c N")

    def read(self, ids: Tokens, n_wanted: int = 1) -> Logits:
        """Reads tokens behind it (`Engine.compute`); logits of the last n_wanted."""
        return self.engine.compute_one(self, ids, n_wanted)

    def extend(self, ids: NDArray[Any]) -> None:
        """Notes tokens that a forward has read, and keeps a checkpoint of the state where one is due."""
        end = self.n_past + len(ids)
        self._tokens[self.n_past : end] = ids
        self.n_past = self._cells = self._state = end
        every = self.engine.checkpoint_every
        if every and end % every == 0:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Keeps a copy of the recurrent state, so that one can come back to here; the oldest gives way to it."""
        slots = self.engine.slots
        if not self.engine.checkpoint_every or not self.n_past or self.is_stale:
            return
        if self.checkpoints and self.checkpoints[-1].n_past == self.n_past:
            return
        if len(self.checkpoints) == slots.n_checkpoints:
            slots.drop(self.checkpoints.pop(0).row)
        if (row := slots.checkpoint(self.slot)) is not None:
            self.checkpoints.append(Checkpoint(self.n_past, row))

    def holds(self, n_past: int) -> bool:
        """Whether it is all there behind the first n_past tokens: cells that the next one sees, and the state."""
        return self.nearest(n_past) == n_past

    def nearest(self, n_past: int) -> int:
        """The position from which tokens must be read again to be behind the first n_past."""
        slots, most = self.engine.slots, min(n_past, self._cells)
        places = (self._state, *(c.n_past for c in self.checkpoints)) if slots.has_state else (most,)
        there = (
            n for n in places if 0 <= n <= most and all(pool.holds(self.slot, n) for pool in slots.pools)
        )
        return max(there, default=0)

    def rewind(self, n_past: int) -> int:
        """Forgets all tokens but the first n_past; returns how many of them it has read again.

        That is none if it `holds` what the next token sees. A recurrent state comes back from the nearest checkpoint
        in front, and the tokens behind that are read again; cells that a window has given back cost all n_past.
        Aborted in between: the rest is read again later (`mend`).
        """
        kept = min(max(n_past, 0), self.n_past)
        again = self._tokens[self.nearest(kept) : kept].copy()
        self.back_to(kept)
        try:
            if len(again):
                self.engine.compute([(self, again, 0)])
        finally:
            self.n_past = kept
        return len(again)

    def back_to(self, n_past: int) -> int:
        """Forgets tokens until all is there behind those that are left, at most n_past; returns how many are."""
        self.n_past = start = self.nearest(min(max(n_past, 0), self.n_past))
        self._restore(start)
        return start

    def _restore(self, n_past: int) -> None:
        """Goes back to where all is there; 0 is always such a place, as a state begins anew at position 0."""
        slots = self.engine.slots
        while self.checkpoints and self.checkpoints[-1].n_past > n_past:
            slots.drop(self.checkpoints.pop().row)
        is_there = not slots.has_state or n_past in (0, self._state)
        for pool in slots.pools:
            pool.cut(self.slot, n_past)
        self._cells = n_past
        self._state = n_past if is_there or slots.copy_state(self.checkpoints[-1].row, self.slot) else -1

    def spoil(self) -> None:
        """Notes that a forward has ended early: its cells are given back, its state is of no position."""
        for pool in self.engine.slots.pools:
            pool.cut(self.slot, self._cells)
        self._state = -1 if self.engine.slots.has_state else self._cells

    def mend(self) -> None:
        """Reads again what an abort has left unread."""
        if self.is_stale:
            self.rewind(self.n_past)

    def fork(self, n_past: int | None = None, slot: int | None = None) -> "Sequence":
        """Another sequence with the same tokens: it has the same cells until one of them writes, and a copied state.

        With n_past it has at most so many of them, as many as are there to go back to (`nearest`). slot: where it is to
        be. ContextError if the engine has no slot left.
        """
        if n_past is None:
            self.mend()
        there = self.n_past if n_past is None else self.nearest(min(n_past, self.n_past))
        other = self.engine.sequence(slot)
        is_whole = self.engine.slots.fork(self._row_at(there), self.slot, other.slot)
        other._tokens[:there] = self._tokens[:there]
        other.n_past = other._cells = there
        other._state = there if is_whole else -1
        for pool in self.engine.slots.pools:
            pool.cut(other.slot, there)
        other.checkpoint()
        return other

    def _row_at(self, n_past: int) -> int | None:
        """The row that holds the state behind the first n_past tokens; None at 0, where a state begins anew."""
        if n_past == self._state:
            return self.slot if n_past else None
        return next((c.row for c in self.checkpoints if c.n_past == n_past), None)

    def adopt(self, tokens: Tokens, checkpoints: Iterable[tuple[int, int]]) -> None:
        """Notes that the slot of an empty sequence holds what is behind tokens, and rows what is at (n_past, row)."""
        self._tokens[: len(tokens)] = tokens
        self.n_past = self._cells = self._state = len(tokens)
        self.checkpoints = [Checkpoint(*both) for both in checkpoints]

    def saved(self) -> Saved:
        """A copy of it in the host's memory, which `Engine.restored` makes a sequence of, bit for bit the same."""
        return saved(self)

    def restore(self, saved: Saved) -> None:
        """Makes it, being empty, what was saved. ContextError if there are too few free cells: then it stays empty."""
        restore(self, saved)

    def close(self) -> None:
        """Gives back its slot, cells and checkpoints."""
        for checkpoint in self.checkpoints:
            self.engine.slots.drop(checkpoint.row)
        self.checkpoints.clear()
        self.engine.slots.close(self.slot)
        self.n_past = self._cells = self._state = 0
