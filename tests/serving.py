"""Services for tests, and what they answer."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from running import model_path

from graphsched.serve.options import ServiceOptions
from graphsched.serve.request import Done, Piece, Request
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


async def tokens_of_answer(service: Service, request: Request) -> tuple[tuple[int, ...], Done]:
    events = [event async for event in service.answers(request)]
    (end,) = (event for event in events if isinstance(event, Done))
    return tuple(t for event in events if isinstance(event, Piece) for t in event.tokens), end
