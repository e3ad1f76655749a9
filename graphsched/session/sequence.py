"""A sequence: the tokens that were read, where they are in the KV cache, and how far one can go back."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.session.cells import CellTable
from graphsched.session.rows import Rows

Tokens = NDArray[np.int32]


class Sequence:
    """What one sequence holds: tokens at positions 0 to n_past - 1, and their cells of each kind.

    `number` names it in the rows of a forward.
    """

    def __init__(self, cells: Iterable[CellTable], n_ctx: int, number: int = 0) -> None:
        self.number, self.n_ctx, self.n_past = number, n_ctx, 0
        self._cells, self._tokens = tuple(cells), np.zeros(n_ctx, np.int32)
        # Rows are parts of these: making arrays anew takes longer than all else that Python does for a token.
        self._numbers = np.full(n_ctx, number, np.int32)
        self._positions = np.arange(n_ctx, dtype=np.int32)
        self._wants = np.repeat([False, True], n_ctx)

    @property
    def tokens(self) -> Tokens:
        """The tokens that were read, i32[n_past]."""
        return self._tokens[: self.n_past]

    @property
    def is_full(self) -> bool:
        """Whether no token fits behind it."""
        return self.n_past == self.n_ctx

    def rows(self, ids: Tokens, n_wanted: int) -> Rows:
        """The rows of a forward that reads tokens behind it; logits are wanted of the last n_wanted."""
        past, first = self.n_past, len(ids) - n_wanted  # rows that want no logits come first
        end = past + len(ids)
        wants = self._wants[self.n_ctx - first : self.n_ctx + n_wanted]
        return Rows(self._numbers[past:end], self._positions[past:end], ids, wants)

    def extend(self, ids: NDArray[Any]) -> None:
        """Notes tokens that a forward has read."""
        end = self.n_past + len(ids)
        self._tokens[self.n_past : end] = ids
        self.n_past = end

    def holds(self, n_past: int) -> bool:
        """Whether the cache has all that a token at position n_past sees: layers with a window give up older cells."""
        return all(table.holds(n_past) for table in self._cells)

    def rewind(self, n_past: int) -> Tokens:
        """Forgets all tokens but the first n_past; returns the tokens that must be read again.

        That is none if the cache still `holds` what the next token sees, else all n_past: the sequence is then empty.
        """
        kept = min(max(n_past, 0), self.n_past)
        again = self._tokens[: 0 if self.holds(kept) else kept].copy()
        self.n_past = kept - len(again)
        for table in self._cells:
            table.free(self.n_past)
        return again
