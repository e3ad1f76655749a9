"""Embeddings: hidden states of a text's tokens, pooled while they come."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError
from graphsched.gguf.loader import ModelFile
from graphsched.serve.options import POOLINGS

_BY_NUMBER: Final[Mapping[int, str]] = {
    0: "none",
    1: "mean",
    2: "cls",
    3: "last",
}  # {architecture}.pooling_type


class Embedding:
    """The hidden states of n_tokens tokens, pooled: their mean, the first (cls), the last one, or none: all of them."""

    def __init__(self, n_tokens: int, pooling: str) -> None:
        self._n, self._pooling = n_tokens, pooling
        self._sum: NDArray[np.float64] | None = None
        self._rows: list[NDArray[np.float32]] = []

    def wanted(self, first: int, n: int) -> int:
        """Of how many of n tokens from a position on states are needed: the last ones."""
        if self._pooling == "last":
            return int(first + n == self._n)
        return n if self._pooling != "cls" or first == 0 else 0

    def take(self, first: int, states: NDArray[np.float32]) -> None:
        """Adds the states [n_wanted, n_embd] of tokens from a position on; it begins anew at the first token."""
        if first == 0:
            self._rows, self._sum = [], None
        if self._pooling == "mean":
            part = states.sum(axis=0, dtype=np.float64)
            self._sum = part if self._sum is None else self._sum + part
        elif len(states):
            self._rows.append(states[:1] if self._pooling == "cls" else states)

    @property
    def values(self) -> NDArray[np.float32]:
        """float32 [n_embd], or [n_tokens, n_embd] where nothing is pooled."""
        if self._sum is not None:
            return (self._sum / self._n).astype(np.float32)
        rows = np.concatenate(self._rows)
        return rows if self._pooling == "none" else rows[-1]


def pooling_of(file: ModelFile, asked: str) -> str:
    """How a model's embeddings are pooled: as asked for, else as its file says, else the mean; OptionError."""
    if asked:
        return asked
    metadata: Mapping[str, Any] = file.metadata
    number = metadata.get(f"{metadata.get('general.architecture')}.pooling_type", 1)
    if number not in _BY_NUMBER:
        raise OptionError(
            f"is to be chosen, {', '.join(POOLINGS)}: the model's own, {number}, is unknown", "pooling"
        )
    return _BY_NUMBER[number]
