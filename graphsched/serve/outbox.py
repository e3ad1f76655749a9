"""Events on their way from the engine's thread to the asyncio loops that wait for them."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from graphsched.serve.embedding import Embedding
from graphsched.serve.request import Event

Mail = Event | Embedding
Letter = tuple["Outbox", list[Mail | BaseException]]


class Post:
    """Takes what a step has for all requests, and hands it over at once: a loop is woken once a step, not once each."""

    def __init__(self) -> None:
        self._letters: dict[asyncio.AbstractEventLoop, list[Letter]] = {}

    def put(self, outbox: "Outbox", events: Iterable[Mail | BaseException]) -> None:
        """Takes events for a request."""
        self._letters.setdefault(outbox.loop, []).append((outbox, list(events)))

    def send(self) -> None:
        """Hands over all that was put."""
        if self._letters:
            letters, self._letters = self._letters, {}
            for loop, own in letters.items():
                with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                    loop.call_soon_threadsafe(_deliver, own)


class Outbox:
    """The events of one request. Made inside of the loop that takes them; the engine's thread puts."""

    def __init__(self, post: Post) -> None:
        self.loop, self._post = asyncio.get_running_loop(), post
        self.arrived: asyncio.Queue[Mail | BaseException] = asyncio.Queue()

    def put(self, events: Iterable[Mail | BaseException]) -> None:
        """Hands events over, in order, with the post's next `send`; an error is raised where they are taken."""
        self._post.put(self, events)

    async def take(self) -> Mail:
        """The next event. Raises the error that came in its place."""
        event = await self.arrived.get()
        if isinstance(event, BaseException):
            raise event
        return event


def _deliver(letters: Iterable[Letter]) -> None:
    for outbox, events in letters:
        for event in events:
            outbox.arrived.put_nowait(event)
