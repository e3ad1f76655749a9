"""Speed of several sequences at once, as llama.cpp's batched-bench measures it: all prompts, then tokens of each."""

import time
from dataclasses import dataclass

from graphsched.arch.cells import cells_of_sequences
from graphsched.measure.bench import WARM_TOKENS
from graphsched.measure.readers import SeveralSequences, Tokens, further, some_tokens
from graphsched.session.sequence import Sequence
from graphsched.session.session import Session


@dataclass(frozen=True)
class Load:
    """Prompts of pp tokens of pl sequences, then tg tokens of each.

    is_shared: one sequence reads the prompt, the others are forks of it. is_separate: one generates after the other.
    """

    pp: int
    tg: int
    pl: int
    is_shared: bool = False
    is_separate: bool = False

    @property
    def n_read(self) -> int:
        """Tokens of prompts that are read."""
        return self.pp if self.is_shared else self.pl * self.pp

    @property
    def n_generated(self) -> int:
        """Tokens that all sequences generate."""
        return self.pl * self.tg

    @property
    def n_kv(self) -> int:
        """Tokens in the cache at the end."""
        return self.n_read + self.n_generated

    @property
    def n_cells(self) -> int:
        """Cells that the context must have: those of whole blocks, but for the last one."""
        return cells_of_sequences(self.pl, self.pp + self.tg, self.pp if self.is_shared else 0)


@dataclass(frozen=True)
class Point:
    """A load with the seconds of its prompts and of its generation."""

    load: Load
    t_pp: float
    t_tg: float

    @property
    def speed_pp(self) -> float:
        """Tokens of prompts per second."""
        return self.load.n_read / self.t_pp

    @property
    def speed_tg(self) -> float:
        """Tokens per second that all sequences generate together."""
        return self.load.n_generated / self.t_tg

    @property
    def t(self) -> float:
        """Seconds of both."""
        return self.t_pp + self.t_tg

    @property
    def speed(self) -> float:
        """Tokens per second of both."""
        return self.load.n_kv / self.t


def measure(session: Session, load: Load, *, is_warm: bool = False) -> Point:
    """Runs a load, after a run that does not count unless `is_warm`; the session's context holds `load.n_cells`."""
    tokens = some_tokens(session, load.pp + load.tg, load.pl)
    if not is_warm:  # makes plans, compiles kernels and brings weights into memory
        _run(session, load, tokens[:, : load.pp + min(load.tg, WARM_TOKENS)])
    return _run(session, load, tokens)


def _run(session: Session, load: Load, tokens: Tokens) -> Point:
    """The session's sequence begins anew; the time of making the others, and of copying its state, does not count."""
    first, prompts, generated = session.sequence, tokens[:, : load.pp], tokens[:, load.pp :]
    first.rewind(0)
    if load.is_shared:
        t_pp = _prompt(session, [first], prompts[:1])
        with further(session, load.pl - 1, are_forks=True) as others:
            return Point(load, t_pp, _generation(session, [first, *others], generated, load.is_separate))
    with further(session, load.pl - 1) as others:
        t_pp = _prompt(session, [first, *others], prompts)
        return Point(load, t_pp, _generation(session, [first, *others], generated, load.is_separate))


def _prompt(session: Session, sequences: list[Sequence], tokens: Tokens) -> float:
    """Seconds of reading a prompt in each sequence, in as few forwards as there can be."""
    reader = SeveralSequences(session.engine, sequences)
    parts = reader.prepared(tokens)
    started = time.perf_counter()
    reader.read(parts)
    return time.perf_counter() - started


def _generation(session: Session, sequences: list[Sequence], tokens: Tokens, is_separate: bool) -> float:
    """Seconds of reading tokens [sequences, n] one by one: of all sequences at once, or of one after the other."""
    steps = []
    groups = [[i] for i in range(len(sequences))] if is_separate else [list(range(len(sequences)))]
    for group in groups:
        reader = SeveralSequences(session.engine, [sequences[i] for i in group])
        steps += [reader.prepared(tokens[group, i : i + 1]) for i in range(tokens.shape[1])]
    read = session.engine.compute
    started = time.perf_counter()
    for step in steps:
        read(step)
    return time.perf_counter() - started
