"""Sequences that no slot has any more, in the host's memory: the oldest go when there is no room for another."""

from collections.abc import Iterable
from typing import Final

from graphsched.serve.prefixes import common
from graphsched.session.rows import Tokens
from graphsched.session.saved import Saved
from graphsched.session.sequence import Sequence

MOST: Final = 512  # sequences: a prompt is compared with all of them


class Kept:
    """Saved sequences, MOST of them and of `most` bytes together at most; the oldest are first."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._saved: list[Saved] = []

    def __len__(self) -> int:
        return len(self._saved)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return sum(saved.nbytes for saved in self._saved)

    def keep(self, sequence: Sequence, others: Iterable[Sequence]) -> None:
        """Saves a sequence, unless another one, or one that is kept, begins with all that it has."""
        tokens = sequence.tokens
        known = [*(other.tokens for other in others), *(saved.tokens for saved in self._saved)]
        if self._most <= 0 or any(_begins(other, tokens) for other in known):
            return
        saved = sequence.saved()
        self._saved = [s for s in self._saved if not _begins(tokens, s.tokens)]
        if saved.nbytes > self._most:
            return
        nbytes = self.nbytes
        while len(self._saved) >= MOST or nbytes + saved.nbytes > self._most:
            nbytes -= self._saved.pop(0).nbytes
        self._saved.append(saved)

    def longest(self, tokens: Tokens) -> tuple[int, Saved | None]:
        """(tokens of a prompt that need not be read behind a saved sequence, the one that has most of them)."""
        found = [(saved.nearest(common(saved.tokens, tokens[:-1])), i) for i, saved in enumerate(self._saved)]
        n, i = max(found, default=(0, -1))
        return (n, self._saved[i]) if n else (0, None)

    def drop(self, saved: Saved) -> None:
        """Forgets one."""
        self._saved = [s for s in self._saved if s is not saved]

    def clear(self) -> None:
        """Forgets all."""
        self._saved.clear()


def _begins(longer: Tokens, tokens: Tokens) -> bool:
    return common(longer, tokens) == len(tokens)
