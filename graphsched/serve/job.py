"""A request on its way through the service, and the tasks that it consists of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter_ns

import numpy as np

from graphsched.serve.answer import Answer
from graphsched.serve.embedding import Embedding
from graphsched.serve.request import Event, Request, RequestTimings
from graphsched.session.rows import Tokens


@dataclass(eq=False)
class Job:
    """A request and its answers; `emit` takes what there is to tell. Times are of `perf_counter_ns`, 0 for not yet."""

    request: Request
    answers: list[Answer]
    emit: Callable[[Iterable[Event | Embedding | BaseException]], None]
    embedding: Embedding | None = None
    queued: int = field(default_factory=perf_counter_ns)
    started: int = 0
    answering: int = 0  # since when the prompt has been read
    cached: int = 0
    slot: int = -1

    @property
    def is_done(self) -> bool:
        """Whether all answers have ended."""
        return all(answer.reason is not None for answer in self.answers)

    def timings(self) -> RequestTimings:
        """Where its time went until now."""
        now = perf_counter_ns()
        started = self.started or now
        answering = self.answering or now
        return RequestTimings(
            queue_ms=(started - self.queued) / 1e6,
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.cached,
            prompt_ms=(answering - started) / 1e6,
            generate_ms=(now - answering) / 1e6,
        )


@dataclass(eq=False)
class Task:
    """Tokens to read, and the answers that begin behind them: of a prompt all, else one that had to give way.

    There is none behind a text that becomes an embedding.
    """

    job: Job
    tokens: Tokens
    answers: list[Answer]
    marks: tuple[int, ...] = ()  # positions at which a recurrent state is worth a checkpoint

    @property
    def n_slots(self) -> int:
        """Slots that it takes."""
        return max(len(self.answers), 1)


def first_task(job: Job, marks: tuple[int, ...] = ()) -> Task:
    """The task that reads the prompt."""
    return Task(job, np.asarray(job.request.prompt, np.int32), list(job.answers), marks)
