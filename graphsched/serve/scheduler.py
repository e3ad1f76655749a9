"""Continuous batching: who has a slot, what the next step reads, and what becomes of its logits.

A step is one forward. Requests join and leave between steps. When cells run out, idle sequences give way first, the
oldest before the others; then the task that came last, which goes on later; a task that is alone ends (`context`).
"""

from collections import deque
from collections.abc import Iterator

import numpy as np

from graphsched.errors import ContextError, Error
from graphsched.serve.answer import Answer
from graphsched.serve.job import Job, Task, first_task
from graphsched.serve.load import Load
from graphsched.serve.options import ServiceOptions
from graphsched.serve.places import Places, idlest
from graphsched.serve.prefixes import FEWEST, as_tokens, turning_points
from graphsched.serve.request import Event, Reason
from graphsched.serve.shares import most_rows, shares
from graphsched.serve.slot import Slot
from graphsched.session.engine import Engine
from graphsched.session.rows import Aborted, Logits, Tokens
from graphsched.text.tokenizer import Tokenizer

Part = tuple[Slot, Tokens, int]  # tokens that a slot reads in a step, and of how many logits are wanted


class Scheduler:
    """The slots of an engine and the tasks that wait for one. Not thread-safe."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, options: ServiceOptions) -> None:
        self.engine, self.tokenizer, self.options = engine, tokenizer, options
        self.slots = [Slot(engine.sequence(i)) for i in range(engine.slots.n_slots)]
        self.places = Places(engine, self.slots, options)
        self.waiting: deque[Task] = deque()
        self.load = Load()
        self._n_seated = 0

    @property
    def has_work(self) -> bool:
        """Whether any task waits or has a slot."""
        return bool(self.waiting) or any(slot.task for slot in self.slots)

    def add(self, job: Job) -> None:
        """Takes a request into the queue."""
        prompt = as_tokens(job.request.prompt)
        has_marks = self.engine.slots.has_state and self.engine.checkpoint_every
        self.waiting.append(first_task(job, turning_points(prompt, self.tokenizer) if has_marks else ()))

    def remove(self, job: Job) -> None:
        """Ends a request at once; nothing is told."""
        self.waiting = deque(task for task in self.waiting if task.job is not job)
        for slot in self.slots:
            if slot.task and slot.task.job is job:
                self._leave(slot)

    def fail_all(self, error: Exception) -> None:
        """Ends all requests that have a slot with an error."""
        for slot in self.slots:
            if slot.task:
                self._fail(slot, error)

    def end_all(self) -> None:
        """Ends all requests now."""
        jobs = [task.job for task in self.waiting]
        jobs += [slot.task.job for slot in self.slots if slot.task]
        for job in dict.fromkeys(jobs):
            self.remove(job)
            for answer in job.answers:
                if answer.reason is None:
                    self._end(job, answer, "abort")

    def step(self) -> None:
        """One forward for all that have a slot, after those that wait have got free ones."""
        self._seat_all()
        parts = list(self._parts())
        while parts and (logits := self._computed(parts)) is None:
            parts = list(self._parts())
        if parts:
            self.load.steps += 1
            for (slot, ids, n_wanted), rows in zip(parts, logits or (), strict=True):
                self._advance(slot, ids, rows if n_wanted else None)

    # Seats

    def _seat_all(self) -> None:
        """Gives free slots to those that wait, in their order; one that waits for a certain slot holds up nobody."""
        for task in list(self.waiting):
            asked = task.job.request.slot
            free = [slot for slot in self.slots if slot.task is None]
            if asked is not None and self.slots[asked] not in free:
                continue
            if len(free) < len(task.answers) or not self._has_cells(task):
                return
            self.waiting.remove(task)
            self._seat(task, free)

    def _has_cells(self, task: Task) -> bool:
        """Whether a task fits beside those that have a slot; idle sequences give way."""
        running = [slot for slot in self.slots if slot.task]
        lengths = [max(len(s.task.tokens), s.sequence.n_past) for s in running if s.task]
        lengths += [len(task.tokens)] * len(task.answers)
        return not running or self.engine.slots.has_blocks([n + FEWEST for n in lengths])

    def _seat(self, task: Task, free: list[Slot]) -> None:
        slot = self.places.slot_for(task, free)
        job = task.job
        if not job.started:
            job.started, job.cached, job.slot = self.load.now(), slot.sequence.n_past, slot.id
            self.load.cached += slot.sequence.n_past
        others = sorted((s for s in free if s is not slot), key=idlest)[: len(task.answers) - 1]
        self._n_seated += 1
        slot.begin(task, self._n_seated)
        for other in others:
            self.places.clear(other)
            other.task, other.since = task, self._n_seated
        slot.reserved = others

    def _leave(self, slot: Slot) -> None:
        slot.leave()
        slot.used = self.load.steps

    # Steps

    def _parts(self) -> Iterator[Part]:
        """What the next step reads."""
        at_work = [slot for slot in self.slots if slot.is_at_work]
        reading = sorted((s for s in at_work if s.is_reading), key=lambda s: s.since)
        generating = [s for s in at_work if not s.is_reading]
        lengths = [len(slot.pending) for slot in reading]
        room = most_rows(self.engine.n_ubatch, len(generating), lengths) - len(generating)
        for slot in generating:
            yield slot, slot.pending, 1
        for slot, n in zip(reading, shares(lengths, room), strict=True):
            if n := self._until_mark(slot, n):
                yield slot, slot.pending[:n], int(n == len(slot.pending))

    def _until_mark(self, slot: Slot, n: int) -> int:
        """Tokens of a piece that goes beyond no position at which a checkpoint is due."""
        assert slot.task is not None
        past, every = slot.sequence.n_past, self.engine.checkpoint_every
        ends = [mark - past for mark in slot.task.marks if mark > past]
        return min([n, *ends, *([every - past % every] if every else [])])

    def _computed(self, parts: list[Part]) -> list[Logits] | None:
        """The logits of a step; None if someone had to give way first."""
        begin = self.load.now()
        try:
            return self.engine.compute([(slot.sequence, ids, n) for slot, ids, n in parts])
        except ContextError:
            self._give_way()
            return None
        except Aborted:
            raise
        except Exception as error:
            self._blame(parts, error)
            return None
        finally:
            self.load.busy_ns += self.load.now() - begin

    def _give_way(self) -> None:
        """Makes cells free: of an idle sequence, else of the task that came last, else by ending the only one."""
        idle = [slot for slot in self.slots if slot.task is None and slot.sequence.n_past]
        if idle:
            self.places.clear(min(idle, key=idlest))
            return
        running = [slot for slot in self.slots if slot.is_at_work]
        last = max(running, key=lambda slot: (slot.since, slot.id))
        assert last.task is not None
        if len(running) > 1:
            self._put_back(last)
        else:
            self._end_all(last)

    def _put_back(self, slot: Slot) -> None:
        """Takes a slot from a task, which goes on later where it was."""
        assert slot.task is not None
        task = slot.task
        rest = slot.answer.tokens if not slot.is_reading and len(task.answers) == 1 else []
        prompt = as_tokens(task.job.request.prompt)
        tokens = np.concatenate((prompt, as_tokens(rest))) if rest else task.tokens
        self.waiting.appendleft(Task(task.job, tokens, task.answers, task.marks))
        self._leave(slot)
        self.places.clear(slot)

    def _end_all(self, slot: Slot) -> None:
        assert slot.task is not None
        for answer in slot.task.answers:
            self._end(slot.task.job, answer, "context")
        self._leave(slot)

    def _blame(self, parts: list[Part], error: Exception) -> None:
        """Ends the requests that a step fails for: those whose part fails alone, too."""
        for slot, *_ in parts:
            slot.sequence.spoil()
        for slot, ids, n in parts if len(parts) > 1 else ():
            try:
                (rows,) = self.engine.compute([(slot.sequence, ids, n)])
                self._advance(slot, ids, rows if n else None)
            except Aborted:
                raise
            except Exception as own:
                self._fail(slot, own)
        if len(parts) == 1:
            self._fail(parts[0][0], error)

    def _fail(self, slot: Slot, error: Exception) -> None:
        assert slot.task is not None
        job = slot.task.job
        self.remove(job)
        slot.renew()
        job.emit([error])

    # What becomes of logits

    def _advance(self, slot: Slot, ids: Tokens, logits: Logits | None) -> None:
        """Notes what a slot has read; behind the last token of it, each of its answers chooses a token."""
        task = slot.task
        if task is None:
            return  # it was another answer of a request that has just failed
        was_reading = slot.sequence.n_past <= len(task.tokens)
        if was_reading:
            self.load.prompt_tokens += len(ids)
            if slot.sequence.n_past in task.marks:
                slot.sequence.checkpoint()
        slot.pending = slot.pending[len(ids) :]
        if logits is None:
            return
        if not task.job.answering:
            task.job.answering = self.load.now()
            self.load.prompt_ns += task.job.answering - task.job.started
        for place in self._begun(slot, task):
            self._choose(place, logits[-1])

    def _begun(self, slot: Slot, task: Task) -> list[Slot]:
        """The slots of a task's answers, one for each: the others' sequences are made now, as forks."""
        for other, answer in zip(slot.reserved, task.answers[1:], strict=True):
            other.sequence.close()
            other.sequence = slot.sequence.fork(slot=other.id)
            other.task = Task(task.job, task.tokens, [answer])
        places, slot.reserved = [slot, *slot.reserved], []
        task.answers = task.answers[:1]
        return places

    def _choose(self, slot: Slot, logits: Logits) -> None:
        task, answer = slot.task, slot.answer
        if task is None:
            return
        before = len(answer.tokens)
        try:
            piece = None if answer.is_enough() else answer.choose(logits)
        except Error as error:
            self._fail(slot, error)
            return
        self.load.generated_tokens += len(answer.tokens) - before
        self.engine.recorder.since("sampling")
        events: list[Event] = [piece] if piece else []
        if answer.reason is None:
            slot.pending = as_tokens(answer.tokens[-1:])
            if events:
                task.job.emit(events)
            if slot.sequence.is_full:
                self._end(task.job, answer, "context")
        else:
            self._finish(task.job, answer, events)
        if answer.reason is not None:
            self._leave(slot)

    def _end(self, job: Job, answer: Answer, reason: Reason) -> None:
        piece = answer.end(reason)
        self._finish(job, answer, [piece] if piece else [])

    def _finish(self, job: Job, answer: Answer, events: list[Event]) -> None:
        done = answer.done(job.timings())
        job.emit([*events, done])
        if job.is_done:
            self.load.finished(job, done)
