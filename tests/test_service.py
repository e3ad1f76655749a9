"""The service: answers of many at once are what each is alone; cancelling, queueing, stopping, and no leaks."""

import asyncio
import gc
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving import GREEDY, TEXT, collected, opened, run, serving, tokens_of_answer

from graphsched.errors import ContextError, OptionError
from graphsched.report.profile_page import html_page
from graphsched.serve.answer import Answer
from graphsched.serve.job import Job
from graphsched.serve.kept import Kept
from graphsched.serve.outbox import Outbox
from graphsched.serve.request import Busy, Piece, Request
from graphsched.serve.service import Service
from graphsched.text.options import SamplingOptions


def prompt(service: Service, text: str = TEXT) -> tuple[int, ...]:
    return tuple(service.tokenizer.encode(text))


def alone(request: Request, name: str | None = None, **options: Any) -> str:
    """What a session makes of a request."""
    session = opened(name, n_parallel=1, **options)
    found = "".join(
        session.generate(
            request.prompt,
            n_predict=request.n_predict,
            sampling=request.sampling,
            stop_on_eog=not request.ignore_eos,
        )
    )
    session.close()
    return found


def test_many_at_once_are_as_alone() -> None:
    options: dict[str, Any] = {"deterministic": True}

    async def main() -> None:
        async with serving(opened(**options)) as service:
            texts = [TEXT, "The dog", "A girl named Lily went", "One day, the sun", "In the park", "Tom and"]
            kinds = [GREEDY, SamplingOptions(seed=7), SamplingOptions(seed=3, repeat_penalty=1.3)]
            asked = [
                Request(prompt(service, text), 12 + 7 * i, kinds[i % 3], ignore_eos=True)
                for i, text in enumerate(texts)
            ]
            found = await asyncio.gather(*(collected(service, request) for request in asked))
            for request, ((text,), (end,)) in zip(asked, found, strict=True):
                assert text == alone(request, **options)
                assert (end.reason, end.timings.generated_tokens) == ("limit", request.n_predict)

    run(main())


def test_answers_of_one_request_share_its_prompt() -> None:
    async def main() -> None:
        async with serving(opened(deterministic=True)) as service:
            request = Request(prompt(service, TEXT * 20), 20, SamplingOptions(seed=5), n=3)
            texts, ends = await collected(service, request)
            assert service.counters().prompt_tokens == len(request.prompt)
            assert len(set(texts)) == 3
            for i, text in enumerate(texts):
                of_one = replace(request, sampling=SamplingOptions(seed=5 + i))
                assert text == alone(of_one, deterministic=True)
            assert [end.index for end in ends] == [0, 1, 2]

    run(main())


@pytest.mark.parametrize("stop", ["little girl", "rl na", "g"])
def test_a_stop_is_no_part_of_the_answer(stop: str) -> None:
    async def main() -> None:
        async with serving(opened()) as service:
            request = Request(prompt(service), 40, GREEDY, stop=("never said", stop))
            (text,), (end,) = await collected(service, request)
            whole = alone(replace(request, stop=()))
            assert text == whole[: whole.index(stop)]
            assert (end.reason, end.stopped_by) == ("stop", stop)

    run(main())


def test_probabilities_before_samplers() -> None:
    async def main() -> None:
        async with serving(opened()) as service:
            request = Request(prompt(service), 5, SamplingOptions(seed=1, temperature=2), n_probs=3)
            found = [p async for p in service.answers(request) if isinstance(p, Piece)]
            tokens = [t for piece in found for t in piece.tokens]
            chosen = [c for piece in found for c in piece.chosen]
            assert [c.token for c in chosen] == tokens
            for c in chosen:
                assert c.logprob <= c.likeliest[0].logprob <= 0
                assert len(c.likeliest) == 3

    run(main())


def test_who_goes_away_frees_the_slot_within_a_step() -> None:
    async def main() -> None:
        async with serving(opened()) as service:
            events = service.answers(Request(prompt(service), -1, GREEDY, ignore_eos=True))
            async for _ in events:
                break
            await events.aclose()  # type: ignore[attr-defined]
            steps = service.counters().steps
            await collected(service, Request(prompt(service), 1, GREEDY))
            assert service.counters().steps <= steps + 2

    run(main())


def test_a_full_queue_says_when_to_come_back() -> None:
    async def main() -> None:
        async with serving(opened(n_parallel=1), n_queue=1) as service:
            request = Request(prompt(service), 200, GREEDY, ignore_eos=True)
            tasks = [asyncio.create_task(collected(service, request)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Busy) as found:
                await collected(service, request)
            assert 1 <= found.value.retry_after <= 600
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    run(main())


def test_bad_requests_are_refused_at_once() -> None:
    async def main() -> None:
        async with serving(opened(n_ctx=64)) as service:
            bad = [
                (Request(()), OptionError, "prompt is empty"),
                (Request((1,) * 65), ContextError, "65 tokens"),
                (Request((10**6,)), OptionError, "outside the vocabulary"),
                (Request((1,), n=5), OptionError, "1 to 4 answers"),
                (Request((1,), slot=4), OptionError, "slots 0 to 3"),
            ]
            for request, kind, words in bad:
                with pytest.raises(kind, match=words):
                    await collected(service, request)
            assert service.counters().steps == 0

    run(main())


def test_a_full_context_ends_an_answer_and_a_full_pool_makes_wait() -> None:
    async def main() -> None:
        async with serving(opened(n_ctx=96, deterministic=True)) as service:
            request = Request(prompt(service), -1, GREEDY, ignore_eos=True)
            seeds = [replace(request, sampling=SamplingOptions(seed=i)) for i in range(3)]
            found = await asyncio.gather(*(collected(service, each) for each in seeds))
            for each, ((text,), (end,)) in zip(seeds, found, strict=True):
                assert end.reason == "context"
                assert text == alone(each, n_ctx=96, deterministic=True)

    run(main())


@pytest.mark.parametrize("name", [None, "qwen35moe", "mamba2", "gemma3"])
def test_a_chat_reads_only_what_is_new(name: str | None) -> None:
    """Ten turns beside another chat: the last token that was chosen has not been read, and the new turn."""

    async def main() -> None:
        async with serving(opened(name, n_ctx=2048)) as service:
            chats: list[tuple[int, ...]] = [(1, 20, 21, 22), (1, 30, 31, 32)]
            n_answer = 15
            for turn in range(10):
                new = tuple(range(40 + turn, 60 + turn))
                for i, text in enumerate(chats):
                    before = service.counters().prompt_tokens
                    request = Request((*text, *new), n_answer, SamplingOptions(seed=1), ignore_eos=True)
                    said, end = await tokens_of_answer(service, request)
                    assert len(said) == n_answer
                    read = service.counters().prompt_tokens - before
                    assert read == len(new) + (1 if turn else len(text))
                    assert end.timings.cached_tokens == len(request.prompt) - read
                    chats[i] = (*request.prompt, *said)

    run(main())


@pytest.mark.parametrize("name", [None, "qwen35moe"])
def test_thoughts_that_a_template_drops_cost_only_their_turn(name: str | None) -> None:
    """The next prompt has the turn without thoughts: it is the same up to where the last message began."""

    async def main() -> None:
        async with serving(opened(name, n_ctx=2048)) as service:
            history: tuple[int, ...] = tuple(range(100, 160))
            for turn in range(6):
                new = (1, *range(40 + turn, 60 + turn))
                opening = (1, 70, 71, 72)  # a control token, and what begins thoughts
                request = Request((*history, *new, *opening), 30, SamplingOptions(seed=1), ignore_eos=True)
                before = service.counters().prompt_tokens
                await tokens_of_answer(service, request)
                read = service.counters().prompt_tokens - before
                said = tuple(range(200, 210))
                if turn:
                    assert len(new) + len(opening) + len(said) <= read
                    assert read <= len(new) + len(opening) + len(said) + 2
                history = (*history, *new, 1, 70, *said)

    run(main())


def test_idle_sequences_come_back_from_memory() -> None:
    async def main() -> None:
        async with serving(opened("qwen35moe", n_parallel=2, n_ctx=1024, deterministic=True)) as service:
            prompts = [tuple(range(10 + i, 90 + i)) for i in range(5)]
            first = [
                await tokens_of_answer(service, Request(p, 10, GREEDY, ignore_eos=True)) for p in prompts
            ]
            before = service.counters().prompt_tokens
            for p, (said, _) in zip(prompts, first, strict=True):
                more = (*p, *said, 5, 6, 7)
                _, end = await tokens_of_answer(service, Request(more, 3, GREEDY, ignore_eos=True))
                assert end.timings.cached_tokens == len(p) + len(said) - 1
            assert service.counters().prompt_tokens - before == 5 * 4

    run(main())


def test_no_memory_for_idle_sequences() -> None:
    async def main() -> None:
        async with serving(opened(n_parallel=1), cache_ram=0) as service:
            prompts = [tuple(range(10 + i, 90 + i)) for i in (0, 1, 0)]
            ends = [(await tokens_of_answer(service, Request(p, 2, GREEDY)))[1] for p in prompts]
            assert [end.timings.cached_tokens for end in ends] == [0, 0, 0]

    run(main())


def test_nothing_is_left_of_many_requests() -> None:
    async def main() -> None:
        session = opened()
        n_free = session.engine.slots.n_free
        async with serving(session, cache_ram=1) as service:

            async def one(i: int) -> None:
                events = service.answers(Request((1, 5 + i % 50, *range(3, 3 + i % 90)), 1 + i % 9, GREEDY))
                async for _ in events:
                    if i % 3 == 0:
                        break
                await events.aclose()  # type: ignore[attr-defined]

            for first in range(0, 150, 30):
                await asyncio.gather(*(one(i) for i in range(first, first + 30)))
            await service.drain()
            gc.collect()
            assert not any(isinstance(found, Job | Answer | Outbox) for found in gc.get_objects())
            for slot in range(4):
                await service.erase(slot)
            assert session.engine.slots.n_free[1:] == n_free[1:]

    run(main())


def test_a_profile_of_the_last_seconds() -> None:
    async def main() -> None:
        async with serving(opened()) as service:
            await asyncio.gather(
                *(tokens_of_answer(service, Request((1, 9 + i), 20, GREEDY)) for i in range(6))
            )
            found = await asyncio.to_thread(service.profile, 60)
            (phase,) = found.data["phases"]
            rows = {row["name"]: row["seconds"] for row in phase["overhead"]}
            assert {"compute on CPU", "host: sampling", "host: slots of requests"} <= set(rows)
            assert sum(rows.values()) == pytest.approx(phase["wall"])
            assert phase["tokens"] == 6 * (2 + 19)
            assert "<html" in html_page(found.phases, found.data)
            assert {record.reason for record in service.recent()} == {"limit"}

    run(main())


def test_a_prompt_only() -> None:
    async def main() -> None:
        async with serving(opened()) as service:
            texts, (end,) = await collected(service, Request(prompt(service), 0))
            assert (texts, end.reason, end.timings.generated_tokens) == ([""], "limit", 0)
            assert service.slots()[end.index].n_past == len(prompt(service))

    run(main())


def test_closing_aborts() -> None:
    async def main() -> None:
        async with serving(opened()) as service:
            request = Request(prompt(service), -1, GREEDY, ignore_eos=True)
            reading = asyncio.create_task(collected(service, request))
            await asyncio.sleep(0.05)
            service.close()
            _, (end,) = await reading
            assert end.reason == "abort"

    run(main())


def test_so_many_are_kept_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsched.serve.kept.MOST", 20)
    session = opened(n_parallel=1, n_ctx=128)
    kept = Kept(float("inf"))
    first = np.arange(3, 43, dtype=np.int32)
    for i in range(25):
        session.reset()
        session.eval(first + i)
        kept.keep(session.sequence, ())
    assert len(kept) == 20
    assert kept.longest(first + 4) == (0, None)
    n, saved = kept.longest(np.append(first + 5, 9))
    assert (n, saved is not None) == (40, True)
    session.reset()
    session.eval((first + 9)[:35])
    kept.keep(session.sequence, ())  # another one begins with it
    assert len(kept) == 20
    session.close()
