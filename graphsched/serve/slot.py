"""A slot: a sequence, and the task that it works for, if any. Without one it is idle and holds what it has read."""

from dataclasses import dataclass, field

import numpy as np

from graphsched.serve.answer import Answer
from graphsched.serve.job import Task
from graphsched.session.model import Head
from graphsched.session.rows import Tokens
from graphsched.session.sequence import Sequence

_NONE = np.zeros(0, np.int32)


@dataclass(eq=False)
class Slot:
    """One of the engine's sequences. pending: tokens to read before anything is chosen.

    reserved: slots in which the task's other answers begin once its prompt has been read; these have the task, too,
    and nothing pending. used: the number of the step in which it was last at work.
    """

    sequence: Sequence
    task: Task | None = None
    pending: Tokens = field(default_factory=lambda: _NONE)
    reserved: list["Slot"] = field(default_factory=list)
    used: int = 0
    since: int = 0  # number of the task among all that were given a slot

    @property
    def id(self) -> int:
        """Its number, which is the sequence's in the engine."""
        return self.sequence.slot

    @property
    def is_reading(self) -> bool:
        """Whether it reads a prompt."""
        return self.task is not None and self.sequence.n_past < len(self.task.tokens) and self.is_at_work

    @property
    def is_at_work(self) -> bool:
        """Whether there is something to read for it."""
        return len(self.pending) > 0

    @property
    def head(self) -> Head:
        """What its task wants of tokens."""
        return "hidden" if self.task is not None and self.task.job.embedding is not None else "logits"

    def wanted(self, n: int) -> int:
        """Of how many of the next n tokens results are wanted, the last ones."""
        assert self.task is not None
        if self.task.job.embedding is not None:
            return self.task.job.embedding.wanted(self.sequence.n_past, n)
        return int(n == len(self.pending))

    @property
    def answer(self) -> Answer:
        """The only answer of its task, once it has begun."""
        assert self.task is not None
        (answer,) = self.task.answers
        return answer

    def begin(self, task: Task, since: int) -> None:
        """Reads a task's tokens from where the sequence is."""
        self.task, self.since = task, since
        self.pending = task.tokens[self.sequence.n_past :]

    def leave(self) -> None:
        """Becomes idle; the sequence stays."""
        for other in self.reserved:
            other.leave()
        self.task, self.pending, self.reserved = None, _NONE, []

    def renew(self) -> None:
        """Makes the sequence an empty one."""
        engine, number = self.sequence.engine, self.sequence.slot
        self.sequence.close()
        self.sequence = engine.sequence(number)
