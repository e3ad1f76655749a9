"""Requests join, leave, are cancelled, give way and come back in any order: each answer is as it is alone.

The scheduler is stepped here, without a thread.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from running import model_path

from graphsched.serve.answer import answers
from graphsched.serve.job import Job
from graphsched.serve.options import ServiceOptions
from graphsched.serve.request import Done, Piece, Request
from graphsched.serve.scheduler import Scheduler
from graphsched.serve.shares import most_rows, shares
from graphsched.session.model import Head
from graphsched.session.saved import Saved
from graphsched.session.session import Session, load
from graphsched.text.options import SamplingOptions

GREEDY = SamplingOptions(temperature=0)


@cache
def session(name: str, n_parallel: int) -> Session:
    """A session that examples share: a pool of 8 blocks, checkpoints every 24 tokens."""
    options: dict[str, Any] = {"n_ctx": 256, "n_ubatch": 64, "checkpoint_every": 24, "deterministic": True}
    return load(model_path(name), n_threads=2, n_parallel=n_parallel, **options)


@cache
def alone(name: str, request: Request) -> str:
    """What a session makes of the only answer of a request."""
    own = session(name, 1)
    own.reset()
    pieces = own.generate(
        request.prompt,
        n_predict=request.n_predict,
        sampling=request.sampling,
        stop_on_eog=not request.ignore_eos,
    )
    return "".join(pieces)


@dataclass(eq=False)
class Asked:
    """A request, what came of it, and whether it still waits."""

    name: str
    request: Request
    texts: list[str] = field(default_factory=list)
    left: int = 0
    job: Any = None

    def emit(self, events: Any) -> None:
        for event in events:
            if isinstance(event, Piece):
                self.texts[event.index] += event.text
            else:
                assert isinstance(event, Done), event
                assert event.reason in ("limit", "context", "eog")
                self.check(event.index)
                self.left -= 1

    def check(self, index: int) -> None:
        sampling = self.request.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + index)
        assert self.texts[index] == alone(self.name, replace(self.request, sampling=sampling, n=1, slot=None))


def prompts() -> st.SearchStrategy[tuple[int, ...]]:
    """Beginnings of a few texts, with a few endings: many have much in common."""

    def made(text: int, n: int, ending: list[int]) -> tuple[int, ...]:
        return (*np.random.default_rng(text).integers(3, 500, n).tolist(), *ending)

    ending = st.lists(st.integers(1, 9), min_size=1, max_size=4)
    return st.builds(made, st.integers(0, 2), st.sampled_from([1, 20, 40, 41, 70, 130, 200]), ending)


class Requests(RuleBasedStateMachine):
    name = "llama"

    def __init__(self) -> None:
        super().__init__()
        self.session = session(self.name, 3)
        self.engine = self.session.engine
        if self.session.sequence.engine.slots.n_free[0] < 3:
            self.session.sequence.close()
        self.before = self.engine.slots.n_free
        self.scheduler = Scheduler(self.engine, self.session.tokenizer, ServiceOptions(cache_ram=1))
        self.asked: list[Asked] = []
        self.saved: list[Saved] = []

    @rule(
        prompt=prompts(),
        n_predict=st.sampled_from([0, 1, 5, 30, 90]),
        seed=st.sampled_from([None, None, 1, 2]),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        slot=st.sampled_from([None, None, 0, 2]),
    )
    def join(
        self, prompt: tuple[int, ...], n_predict: int, seed: int | None, n: int, slot: int | None
    ) -> None:
        sampling = GREEDY if seed is None else SamplingOptions(seed=seed, repeat_penalty=1.1)
        request = Request(
            prompt,
            n_predict,
            sampling,
            ignore_eos=True,
            n=n,
            slot=slot if n == 1 else None,
            keeps=n_predict != 5,
        )
        asked = Asked(self.name, request, [""] * n, n)
        asked.job = Job(request, list(answers(request, self.session.tokenizer)), asked.emit)
        self.scheduler.add(asked.job)
        self.asked.append(asked)

    @rule(n=st.integers(1, 12))
    def some_steps(self, n: int) -> None:
        for _ in range(n):
            if self.scheduler.has_work:
                self.scheduler.step()

    @precondition(lambda self: any(asked.left for asked in self.asked))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        asked = data.draw(st.sampled_from([asked for asked in self.asked if asked.left]))
        self.scheduler.remove(asked.job)
        asked.left = 0

    @rule(number=st.integers(0, 2))
    def save(self, number: int) -> None:
        slot = self.scheduler.slots[number]
        if slot.task is None and slot.sequence.n_past:
            self.saved.append(slot.sequence.saved())

    @precondition(lambda self: self.saved)
    @rule(number=st.integers(0, 2), data=st.data())
    def restore(self, number: int, data: st.DataObject) -> None:
        slot, saved = self.scheduler.slots[number], data.draw(st.sampled_from(self.saved))
        if slot.task is None and not any(s.task for s in self.scheduler.slots):
            self.scheduler.places.restore(slot, saved)
            np.testing.assert_array_equal(slot.sequence.tokens, saved.tokens)

    @invariant()
    def what_waits_has_work(self) -> None:
        waiting = {asked.job for asked in self.asked if asked.left}
        at_work = {slot.task.job for slot in self.scheduler.slots if slot.task}
        assert waiting == at_work | {task.job for task in self.scheduler.waiting}
        assert self.scheduler.places.kept.nbytes <= 1 << 20

    def teardown(self) -> None:
        for _ in range(20_000):
            if not self.scheduler.has_work:
                break
            self.scheduler.step()
        assert not any(asked.left for asked in self.asked)
        for slot in self.scheduler.slots:
            slot.sequence.close()
        assert self.engine.slots.n_free == self.before


class RecurrentRequests(Requests):
    name = "qwen35moe"


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
TestRecurrentRequests = RecurrentRequests.TestCase
TestRecurrentRequests.settings = settings(max_examples=4, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("n_ubatch", [8, 64, 512])
def test_rows_of_a_step(n_ubatch: int) -> None:
    assert most_rows(n_ubatch, 0, [8000]) == n_ubatch
    assert most_rows(n_ubatch, 1, [8000]) <= max(n_ubatch // 4, 32)
    assert most_rows(n_ubatch, 0, [8000, 5000]) == n_ubatch
    assert most_rows(n_ubatch, 0, [8000, 3]) <= max(n_ubatch // 4, 32)  # the short one is to begin soon
    assert most_rows(n_ubatch, 0, [8000, 200]) == min(400, n_ubatch)
    assert most_rows(n_ubatch, 4, []) == n_ubatch


def test_shares_are_fair() -> None:
    assert shares([8000], 512) == [512]
    assert shares([8000, 20], 512) == [492, 20]
    assert shares([8000, 5000, 20], 512) == [256, 236, 20]
    assert shares([100, 8000], 512) == [100, 412]
    assert shares([300, 300, 300], 512) == [300, 212, 0]
    assert shares([], 512) == []
    assert shares([5, 5, 5], 1) == [1, 0, 0]


def stepped(name: str, **options: Any) -> tuple[Scheduler, list[int], Session]:
    """A scheduler of four slots, and the rows of each forward."""
    own = load(model_path(name), n_threads=2, n_parallel=4, **{"n_ctx": 4096, "n_ubatch": 128, **options})
    own.sequence.close()
    rows, forward = list[int](), own.engine.forward

    def count(given: Any, head: Head = "logits") -> Any:
        rows.append(len(given.token))
        return forward(given, head)

    cast(Any, own.engine).forward = count
    return Scheduler(own.engine, own.tokenizer, ServiceOptions()), rows, own


def added(scheduler: Scheduler, prompt: tuple[int, ...], n_predict: int) -> list[Any]:
    """The events of a greedy request, as they come."""
    events: list[Any] = []
    request = Request(prompt, n_predict, GREEDY, ignore_eos=True)
    scheduler.add(Job(request, list(answers(request, scheduler.tokenizer)), events.extend))
    return events


@pytest.mark.parametrize("n_short", [5, 60])
def test_a_short_prompt_overtakes_a_long_one(n_short: int) -> None:
    """Its first token comes before two micro-batches have been computed, that in progress included."""
    scheduler, rows, own = stepped("llama")
    long = added(scheduler, tuple(range(3, 403)) * 8, 4)
    for _ in range(3):
        scheduler.step()
    assert rows == [128] * 3
    short = added(scheduler, tuple(range(7, 7 + n_short)), 30)
    scheduler.step()  # the one in progress when it came had these rows
    del rows[:3]
    while not short and scheduler.has_work:
        scheduler.step()
    assert 128 + sum(rows) < 2 * 128
    del rows[:]
    for _ in range(28):
        scheduler.step()
    assert max(rows) <= 128 // 4  # nobody waits longer for the next token
    while scheduler.has_work:
        scheduler.step()
    assert isinstance(long[-1], Done)
    assert sum(slot.sequence.n_past for slot in scheduler.slots) >= 3200 + n_short
    own.close()


def test_long_prompts_beside_each_other_go_on_at_half_speed_at_least() -> None:
    scheduler, _, own = stepped("llama")
    added(scheduler, tuple(range(3, 403)) * 2, 1)
    for i in range(3):
        added(scheduler, tuple(range(20 + i, 320 + i)), 1)
    scheduler.step()
    assert [slot.sequence.n_past for slot in scheduler.slots] == [64, 64, 0, 0]
    own.close()


def test_an_error_of_the_engine_ends_only_its_request() -> None:
    scheduler, _, own = stepped("qwen35moe")
    compute = own.engine.compute

    def failing(parts: Any, head: Head = "logits") -> Any:
        if any(13 in ids for _, ids, _ in parts):
            raise RuntimeError("a device has failed")
        return compute(parts, head)

    expected = added(scheduler, (5, 6, 7), 12)
    while scheduler.has_work:
        scheduler.step()
    cast(Any, own.engine).compute = failing
    good, bad = added(scheduler, (5, 6, 7), 12), added(scheduler, (5, 13, 7), 12)
    while scheduler.has_work:
        scheduler.step()
    assert [str(event) for event in bad] == ["a device has failed"]
    assert text_of(good) == text_of(expected)
    for slot in scheduler.slots:
        slot.sequence.close()
    assert own.engine.slots.n_free[0] == 4
    own.close()


def text_of(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))
