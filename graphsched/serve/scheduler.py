"""Continuous batching: who has a slot, what the next step reads, and what becomes of its logits.

A step is one forward. Requests join and leave between steps. When cells run out, idle sequences give way first, the
oldest before the others; then the task that came last, which goes on later; a task that is alone ends (`context`).
"""

from collections import deque
from typing import get_args

from graphsched.errors import ContextError
from graphsched.serve.answer import Answer
from graphsched.serve.job import Job, Task, first_task
from graphsched.serve.load import Load
from graphsched.serve.options import ServiceOptions
from graphsched.serve.pieces import Piece, pieces
from graphsched.serve.places import Places, idlest
from graphsched.serve.prefixes import FEWEST, as_tokens, turning_points
from graphsched.serve.request import Busy, Event, Reason
from graphsched.serve.slot import Slot
from graphsched.session.engine import Engine
from graphsched.session.model import Head
from graphsched.session.rows import Aborted, Logits, Tokens
from graphsched.text.tokenizer import Tokenizer


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
            if job.embedding is not None:
                job.emit([Busy("the server is ending", 1)])
            for answer in job.answers:
                if answer.reason is None:
                    self._end(job, answer, "abort")

    def step(self) -> None:
        """One forward for all that have a slot, after those that wait have got free ones; another for embeddings."""
        self._seat_all()
        found = list(pieces(self.slots, self.engine.n_ubatch, self.engine.checkpoint_every))
        self.load.steps += bool(found)
        self.engine.recorder.since("slots")
        for head in get_args(Head):
            self._run([piece for piece in found if piece.slot.head == head], head)

    # Seats

    def _seat_all(self) -> None:
        """Gives free slots to those that wait, in their order; one that waits for a certain slot holds up nobody."""
        for task in list(self.waiting):
            asked = task.job.request.slot
            free = [slot for slot in self.slots if slot.task is None]
            if asked is not None and self.slots[asked] not in free:
                continue
            if len(free) < task.n_slots or not self._has_cells(task):
                return
            self.waiting.remove(task)
            try:
                self._seat(task, free)
            except Exception as error:
                self.remove(task.job)
                task.job.emit([error])

    def _has_cells(self, task: Task) -> bool:
        """Whether a task fits beside those that have a slot; idle sequences give way."""
        running = [slot for slot in self.slots if slot.task]
        lengths = [max(len(s.task.tokens), s.sequence.n_past) for s in running if s.task]
        lengths += [len(task.tokens)] * task.n_slots
        return not running or self.engine.slots.has_blocks([n + FEWEST for n in lengths])

    def _seat(self, task: Task, free: list[Slot]) -> None:
        slot = self.places.slot_for(task, free)
        job = task.job
        if not job.started:
            job.started, job.cached, job.slot = self.load.now(), slot.sequence.n_past, slot.id
            self.load.cached += slot.sequence.n_past
        others = sorted((s for s in free if s is not slot), key=idlest)[: task.n_slots - 1]
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

    def _run(self, wanted: list[Piece], head: Head) -> None:
        """Computes pieces of slots, and hands results to their tasks.

        Some lose their slot first if there are too few cells. A request that the engine fails for ends alone: when
        several fail together each is tried by itself.
        """
        while wanted := [piece for piece in wanted if piece.slot.task is not None]:
            begin = self.load.now()
            try:
                parts = [(slot.sequence, ids, n) for slot, ids, n in wanted]
                results = self.engine.compute(parts, head)
                self.engine.recorder.evaluated(begin)
            except ContextError:
                self._give_way()
                continue
            except Aborted:
                raise
            except Exception as error:
                self._apart(wanted, head, error)
                return
            finally:
                self.load.busy_ns += self.load.now() - begin
            for piece, rows in zip(wanted, results, strict=True):
                self._advance(*piece, rows)
            return

    def _apart(self, failed: list[Piece], head: Head, error: Exception) -> None:
        for piece in failed:
            piece.slot.sequence.spoil()
        if len(failed) == 1:
            self._fail(failed[0].slot, error)
            return
        for piece in failed:
            self._run([piece], head)

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
        rest = slot.answer.tokens if len(task.answers) == 1 and not slot.is_reading else []
        tokens = as_tokens((*task.job.request.prompt, *rest)) if rest else task.tokens
        self.waiting.appendleft(Task(task.job, tokens, task.answers, task.marks))
        self._leave(slot)
        self.places.clear(slot)

    def _end_all(self, slot: Slot) -> None:
        assert slot.task is not None
        for answer in slot.task.answers:
            self._end(slot.task.job, answer, "context")
        self._leave(slot)

    def _fail(self, slot: Slot, error: Exception) -> None:
        assert slot.task is not None
        job = slot.task.job
        self.remove(job)
        slot.renew()
        job.emit([error])

    # What becomes of results

    def _advance(self, slot: Slot, ids: Tokens, n_wanted: int, rows: Logits) -> None:
        """Notes what a slot has read; behind the last token of it, each of its answers chooses a token."""
        task = slot.task
        if task is None:
            return  # it was another answer of a request that has just failed
        n_past = slot.sequence.n_past
        if n_past <= len(task.tokens):
            self.load.prompt_tokens += len(ids)
            if n_past in task.marks:
                slot.sequence.checkpoint()
        slot.pending = slot.pending[len(ids) :]
        if task.job.embedding is not None:
            task.job.embedding.take(n_past - len(ids), rows)
            if not slot.is_at_work:
                self._embedded(slot, task.job)
        elif n_wanted:
            self._began(task.job)
            for place in self._begun(slot, task):
                self._choose(place, rows[-1])

    def _began(self, job: Job) -> None:
        if not job.answering:
            job.answering = self.load.now()
            self.load.prompt_ns += job.answering - job.started

    def _embedded(self, slot: Slot, job: Job) -> None:
        """Hands over an embedding; its sequence is nothing to come back to."""
        self._began(job)
        self._leave(slot)
        slot.renew()
        assert job.embedding is not None
        job.emit([job.embedding])
        self.load.finished(job, "limit")

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
        except Exception as error:  # a sampler's or a grammar's: it is this request's own
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
        job.emit([*events, answer.done(job.timings())])
        if job.is_done and answer.reason is not None:
            self.load.finished(job, answer.reason)
