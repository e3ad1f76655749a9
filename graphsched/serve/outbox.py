"""Events on their way from the engine's thread to the asyncio loop that waits for them."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

from graphsched.serve.embedding import Embedding
from graphsched.serve.request import Event

Mail = Event | Embedding


class Outbox:
    """The events of one request. Made inside of the loop that takes them; any thread may put."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Mail | BaseException] = asyncio.Queue()

    def put(self, events: Iterable[Mail | BaseException]) -> None:
        """Hands events over, in order; an error is raised where they are taken."""
        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(self._put, list(events))

    def _put(self, events: Iterable[Mail | BaseException]) -> None:
        for event in events:
            self._queue.put_nowait(event)

    async def take(self) -> Mail:
        """The next event. Raises the error that came in its place."""
        event = await self._queue.get()
        if isinstance(event, BaseException):
            raise event
        return event
