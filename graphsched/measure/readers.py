"""What reads tokens in a measurement: a session's one sequence, or several at once, each with tokens of its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.session.engine import Engine
from graphsched.session.sequence import Sequence
from graphsched.session.session import Session

SEED: Final = 0  # of the tokens, which choose the experts of a mixture
Tokens = NDArray[np.int32]
Parts = list[tuple[Sequence, Tokens, int]]


class Reader(Protocol):
    """Reads behind what has been read; `read` takes what `prepared` makes of tokens, i32[n_sequences, n]."""

    read: Callable[[Any], Any]

    @property
    def n_past(self) -> int: ...
    def prepared(self, tokens: Tokens) -> Any: ...
    def rewind(self, n_past: int) -> None: ...


class OneSequence:
    """A session's sequence, as programs read it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.read: Callable[[Any], Any] = session.eval

    @property
    def n_past(self) -> int:
        """Tokens that were read."""
        return self._session.n_past

    def prepared(self, tokens: Tokens) -> Tokens:
        """What `read` takes: the tokens of the one sequence."""
        one: Tokens = tokens[0]
        return one

    def rewind(self, n_past: int) -> None:
        """Forgets all tokens but the first n_past."""
        self._session.rewind(n_past)


class SeveralSequences:
    """Sequences of one engine, which read equally many tokens in each step."""

    def __init__(self, engine: Engine, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.read: Callable[[Any], Any] = engine.compute

    @property
    def n_past(self) -> int:
        """Tokens that each of them has read."""
        return self.sequences[0].n_past

    def prepared(self, tokens: Tokens) -> Parts:
        """What `read` takes: a part for each sequence, with logits of its last token."""
        return [(sequence, ids, 1) for sequence, ids in zip(self.sequences, tokens, strict=True)]

    def rewind(self, n_past: int) -> None:
        """Forgets all tokens of each but the first n_past."""
        for sequence in self.sequences:
            sequence.rewind(n_past)


@contextmanager
def reader_of(session: Session) -> Iterator[Reader]:
    """The reader of as many sequences as the session's options say (`n_parallel`)."""
    n = session.options.n_parallel
    if n == 1:
        yield OneSequence(session)
        return
    with further(session, n - 1) as others:
        yield SeveralSequences(session.engine, [session.sequence, *others])


@contextmanager
def further(session: Session, n: int, *, are_forks: bool = False) -> Iterator[list[Sequence]]:
    """So many sequences beside the session's, new ones or with what that has read; closed at the end."""
    made: list[Sequence] = []
    try:
        for _ in range(n):
            made.append(session.sequence.fork() if are_forks else session.engine.sequence())
        yield made
    finally:
        for sequence in made:
            sequence.close()


def some_tokens(session: Session, n: int, n_sequences: int = 1) -> Tokens:
    """Valid ids i32[n_sequences, n], the same for every run on a model; the first begins a text, if a token does."""
    shape = n_sequences, n
    ids = np.random.default_rng(SEED).integers(0, session.model.n_vocab, shape).astype(np.int32)
    if (first := session.model.first_token) is not None:
        ids[:, 0] = first
    return ids
