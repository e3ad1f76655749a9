"""The service: answers of many at once are what each is alone; cancelling, queueing, stopping, and no leaks."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from running import model_path

from graphsched.errors import ContextError, OptionError
from graphsched.serve.options import ServiceOptions
from graphsched.serve.request import Busy, Done, Piece, Request
from graphsched.serve.service import Service
from graphsched.session.session import Session, load
from graphsched.text.options import SamplingOptions

GREEDY = SamplingOptions(temperature=0)
TEXT = "Once upon a time"


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 120))


def opened(name: str | None = None, **options: Any) -> Session:
    given = {"n_parallel": 4, "n_ctx": 512, "n_threads": 2, "n_ubatch": 64, **options}
    return load(model_path(name) if name else None, **given)


@asynccontextmanager
async def serving(session: Session, **options: Any) -> AsyncIterator[Service]:
    """A service that has nothing left in use at the end."""
    service = Service(session, ServiceOptions(**options))
    service.start()
    try:
        yield service
        await service.drain()
        assert not any(slot.is_processing for slot in service.slots())
    finally:
        service.close()
        session.close()


async def collected(service: Service, request: Request) -> tuple[list[str], list[Done]]:
    """Texts and ends of all answers."""
    texts, ends = [""] * request.n, list[Done]()
    async for event in service.answers(request):
        if isinstance(event, Piece):
            assert event.index not in {end.index for end in ends}
            texts[event.index] += event.text
        else:
            ends.append(event)
    return texts, sorted(ends, key=lambda end: end.index)


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
        async with serving(opened(n_ctx=128, deterministic=True)) as service:
            request = Request(prompt(service), -1, GREEDY, ignore_eos=True)
            seeds = [replace(request, sampling=SamplingOptions(seed=i)) for i in range(4)]
            found = await asyncio.gather(*(collected(service, each) for each in seeds))
            for each, ((text,), (end,)) in zip(seeds, found, strict=True):
                assert end.reason == "context"
                assert text == alone(each, n_ctx=128, deterministic=True)

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
