"""The service: many requests on one engine, asked for from an asyncio loop, computed by a thread of its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import ContextError, Error, OptionError
from graphsched.serve import slot_files
from graphsched.serve.answer import answers
from graphsched.serve.embedding import Embedding, pooling_of
from graphsched.serve.job import Job
from graphsched.serve.load import Counters, RequestRecord
from graphsched.serve.options import ServiceOptions
from graphsched.serve.outbox import Outbox, Post
from graphsched.serve.profiled import ProfileData, last_trace, profile_of
from graphsched.serve.request import Busy, Done, Event, Request
from graphsched.serve.scheduler import Scheduler
from graphsched.serve.slot import Slot
from graphsched.serve.slot_files import SavedFile
from graphsched.serve.slot_state import SlotState, state_of
from graphsched.serve.worker import Worker
from graphsched.session.session import Session
from graphsched.text.dialect import Dialect, dialect_of

T = TypeVar("T")


class Service:
    """Requests of many clients on one session, which has a sequence for each slot, and belongs to the service.

    All methods may be called from the thread of an asyncio loop; none of them waits for the engine but the async ones.
    """

    def __init__(self, session: Session, options: ServiceOptions) -> None:
        self._engine = engine = session.engine
        if engine.n_ubatch < engine.slots.n_slots:
            what = f"is {engine.n_ubatch}, a step needs a token for each of {engine.slots.n_slots} slots"
            raise OptionError(what, "n_ubatch")
        self.session, self.options = session, options
        self.model, self.tokenizer = session.model, session.tokenizer
        self.dialect: Dialect = dialect_of(self.tokenizer.chat_template, self.tokenizer)
        self.n_ctx, self.n_slots = engine.n_ctx, engine.slots.n_slots
        self._pooling = pooling_of(self.model.file, options.pooling)
        session.sequence.close()  # all sequences are slots'
        self._scheduler = Scheduler(engine, self.tokenizer, options)
        self._post = Post()
        self._worker = Worker(self._scheduler, self._post.send)
        self._outboxes: set[Outbox] = set()  # of requests that somebody waits for
        self._drains = False
        self._idle = asyncio.Event()

    def start(self) -> None:
        """Begins to compute."""
        self._worker.start()

    async def answers(self, request: Request) -> AsyncIterator[Event]:
        """Pieces of all answers to a request as they come, and one `Done` for each behind its last piece.

        Closing the iterator ends the request within a step. Raises before the first event: ContextError for a prompt
        that does not fit, OptionError for other values that do not, Busy if the queue is full, or the service ends.
        """
        self._check(request)
        outbox = Outbox(self._post)
        self._outboxes.add(outbox)
        job = Job(request, [], outbox.put)
        try:
            # Samplers look at the whole prompt, some at the whole vocabulary: nothing for this thread.
            job.answers += await asyncio.to_thread(lambda: list(answers(request, self.tokenizer)))
            self._check_open()
            self._worker.call(lambda: self._scheduler.add(job))
            left = request.n
            while left:
                event = await outbox.take()
                assert not isinstance(event, Embedding)
                left -= isinstance(event, Done)
                yield event
        finally:
            self._forget(job, outbox)

    async def embed(self, prompts: Sequence[tuple[int, ...]]) -> list[NDArray[np.float32]]:
        """Hidden states of the tokens of texts, pooled (`--pooling`), not normalised: float32 [n_embd] of each.

        Without pooling they are [n_tokens, n_embd]. Raises as `answers` does.
        """
        asked = [Request(prompt, keeps=False, name="embedding") for prompt in prompts]
        for request in asked:
            self._check(request)
        rest = iter(asked)
        found: dict[int, NDArray[np.float32]] = {}

        async def some() -> None:
            for request in rest:
                found[id(request)] = await self._embedded(request)

        tasks = [asyncio.create_task(some()) for _ in range(min(self.n_slots, len(asked)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return [found[id(request)] for request in asked]

    async def _embedded(self, request: Request) -> NDArray[np.float32]:
        outbox = Outbox(self._post)
        job = Job(request, [], outbox.put, Embedding(len(request.prompt), self._pooling))
        self._outboxes.add(outbox)
        try:
            self._worker.call(lambda: self._scheduler.add(job))
            embedding = await outbox.take()
            assert isinstance(embedding, Embedding)
            return embedding.values
        finally:
            self._forget(job, outbox)

    def _forget(self, job: Job, outbox: Outbox) -> None:
        """Nobody waits for a request any more: what there is left of it ends."""
        self._worker.call(lambda: self._scheduler.remove(job))
        self._outboxes.discard(outbox)
        if not self._outboxes:
            self._idle.set()

    def _check(self, request: Request) -> None:
        """What is wrong with a request, before anything is done for it."""
        n = len(request.prompt)
        if not n:
            raise OptionError("is empty, a token at least is needed", "prompt")
        if n > self.n_ctx:
            raise ContextError(
                f"the prompt has {n} tokens, the context holds {self.n_ctx}; a larger one is -c N"
            )
        if bad := [token for token in request.prompt if not 0 <= token < self.model.n_vocab]:
            raise OptionError(f"token {bad[0]} is outside the vocabulary of {self.model.n_vocab}")
        if not 1 <= request.n <= self.n_slots:
            raise OptionError(f"is {request.n}, a request can have 1 to {self.n_slots} answers", "n")
        if request.slot is not None and not 0 <= request.slot < self.n_slots:
            raise OptionError(f"is {request.slot}, there are slots 0 to {self.n_slots - 1}", "id_slot")
        if request.slot is not None and request.n > 1:
            raise OptionError("is given, but several answers have a slot each", "id_slot")
        if not all(request.stop):
            raise OptionError("is empty, texts are needed", "stop")
        self._check_queue()

    def _check_queue(self) -> None:
        waiting = len(self._scheduler.waiting)
        self._check_open()
        if len(self._outboxes) >= self.n_slots + self.options.n_queue:
            after = self._scheduler.load.retry_after(waiting, self.n_slots)
            raise Busy(f"{waiting} requests are waiting, and there is no room for more", after)

    def _check_open(self) -> None:
        if self._drains:
            raise Busy("the server is ending and takes no more requests", 1)

    def slots(self) -> list[SlotState]:
        """All slots as they are now."""
        return [state_of(slot, self.n_ctx) for slot in self._scheduler.slots]

    def counters(self) -> Counters:
        """Sums since the service began."""
        waiting = len(self._scheduler.waiting)
        return self._scheduler.load.counters(max(len(self._outboxes) - waiting, 0), waiting)

    def recent(self) -> tuple[RequestRecord, ...]:
        """The last requests that have ended, the oldest first."""
        return self._scheduler.load.recent

    async def save(self, slot: int, path: Path) -> SavedFile:
        """Saves what an idle slot holds to a file.

        OptionError if there is no such slot; Error if it is at work, or for the file: then nothing has changed.
        """
        begin = perf_counter()
        saved = await self._called(lambda: self._idle_slot(slot).sequence.saved())
        nbytes = await asyncio.to_thread(slot_files.write, path, saved, self._engine)
        return SavedFile(len(saved.tokens), nbytes, (perf_counter() - begin) * 1e3)

    async def restore(self, slot: int, path: Path) -> SavedFile:
        """Makes an idle slot hold what was saved to a file. Errors as of `save`, and for a file that does not fit."""
        begin = perf_counter()
        saved = await asyncio.to_thread(slot_files.read, path, self._engine)
        await self._called(lambda: self._scheduler.places.restore(self._idle_slot(slot), saved))
        return SavedFile(len(saved.tokens), path.stat().st_size, (perf_counter() - begin) * 1e3)

    async def erase(self, slot: int) -> int:
        """Makes an idle slot forget all; the tokens that it held. Errors as of `save`."""

        def erase() -> int:
            found = self._idle_slot(slot)
            n = found.sequence.n_past
            found.renew()
            return n

        return await self._called(erase)

    def _called(self, function: Callable[[], T]) -> Awaitable[T]:
        return asyncio.wrap_future(self._worker.call(function))

    def _idle_slot(self, number: int) -> Slot:
        if not 0 <= number < self.n_slots:
            raise OptionError(f"is {number}, there are slots 0 to {self.n_slots - 1}", "id_slot")
        slot = self._scheduler.slots[number]
        if slot.task is not None:
            raise Error(f"slot {number} is at work")
        return slot

    def profile(self, seconds: float) -> ProfileData:
        """Where the last seconds went, as far as the trace holds them. It takes a while: not for an asyncio loop."""
        recorder = self._engine.recorder
        trace, wall = self._worker.call(lambda: last_trace(recorder, seconds)).result()
        return profile_of(self.session, trace, wall)

    async def drain(self) -> None:
        """Takes no more requests; returns when all that there are have ended."""
        self._drains = True
        while self._outboxes:
            self._idle.clear()
            await self._idle.wait()
        await self._called(lambda: None)  # behind the calls that freed slots

    def close(self) -> None:
        """Ends everything now: requests end with the reason `abort`. The session stays open."""
        self._drains = True
        self._worker.close()
        self._scheduler.end_all()
        self._post.send()
