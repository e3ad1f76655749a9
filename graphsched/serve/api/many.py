"""Several requests at once, as one: prompts of one request over HTTP, which are computed beside each other."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from graphsched.serve.api.events import ended
from graphsched.serve.api.failures import unavailable
from graphsched.serve.api.generation import events
from graphsched.serve.api.served import Served
from graphsched.serve.request import Chosen, Done, Event, Request


async def answers_of(served: Served, requests: Sequence[Request]) -> AsyncGenerator[tuple[int, Event], None]:
    """The events of all requests as they come, each with the number of its answer among all.

    Failure 503 for an answer that the server had to end.
    """
    if len(requests) == 1:
        async with aclosing(events(served, requests[0])) as found:
            async for event in found:
                yield event.index, _whole(event)
        return
    queue: asyncio.Queue[tuple[int, Event] | BaseException | None] = asyncio.Queue()
    tasks = [asyncio.ensure_future(_into(queue, served, r, i * r.n)) for i, r in enumerate(requests)]
    try:
        left = len(tasks)
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            left -= item is None
            if item is not None:
                yield item
    finally:
        await ended(*tasks)


async def _into(
    queue: "asyncio.Queue[tuple[int, Event] | BaseException | None]",
    served: Served,
    request: Request,
    first: int,
) -> None:
    try:
        async with aclosing(events(served, request)) as found:
            async for event in found:
                await queue.put((first + event.index, _whole(event)))
    except Exception as e:
        await queue.put(e)
    else:
        await queue.put(None)


def _whole(event: Event) -> Event:
    if isinstance(event, Done) and event.reason == "abort":
        raise unavailable("the server ended the answer")
    return event


@dataclass
class Finished:
    """An answer that has ended, or is on its way."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    chosen: list[Chosen] = field(default_factory=list)
    end: Done | None = None

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.texts)

    @property
    def done(self) -> Done:
        """Its end."""
        assert self.end is not None
        return self.end


async def finished(served: Served, requests: Sequence[Request]) -> list[Finished]:
    """All answers once they have ended, those of a request beside each other."""
    found = [Finished() for request in requests for _ in range(request.n)]
    async with aclosing(answers_of(served, requests)) as events:
        async for index, event in events:
            if isinstance(event, Done):
                found[index].end = event
            else:
                found[index].texts.append(event.text)
                found[index].tokens.extend(event.tokens)
                found[index].chosen.extend(event.chosen)
    return found
