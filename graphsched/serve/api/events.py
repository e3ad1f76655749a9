"""Server-sent events: a response that is written as its parts come, with comments that keep a silent one alive."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PING: Final = b": ping\n\n"  # a comment, which clients skip
DONE: Final = b"data: [DONE]\n\n"
HEADERS: Final = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_END: Final = object()
T = TypeVar("T")
Told = Callable[[Exception], bytes]


def data(value: Any, event: str = "") -> bytes:
    """An event with a JSON value; `event` is its name, if it has one."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class Events(Response):
    """Sends events as they come, and pings after so many seconds without one; `seconds` <= 0 is never.

    An error ends them; `told` is the event that tells it. A client that does not read for `patience` seconds has gone.
    The iterator is closed in any case.
    """

    def __init__(
        self, events: "Begun[bytes]", told: Told, seconds: float, patience: float, ping: bytes = PING
    ) -> None:
        super().__init__(headers=HEADERS, media_type="text/event-stream")
        del self.headers["content-length"]
        self._events, self._told, self._ping = events, told, ping
        self._seconds, self._patience = seconds, patience
        self._since, self._is_sending = monotonic(), False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events) as events:
            writing = asyncio.ensure_future(self._write(events, send))
            minding = asyncio.ensure_future(self._mind(send))
            try:
                await asyncio.wait({writing, minding}, return_when=asyncio.FIRST_COMPLETED)
                if writing.done():
                    writing.result()
            finally:
                await ended(writing, minding)

    async def _write(self, events: "Begun[bytes]", send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async for event in events:
                await self._send(send, event)
        except Exception as e:
            await self._send(send, self._told(e))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, part: bytes) -> None:
        self._since, self._is_sending = monotonic(), True
        await send({"type": "http.response.body", "body": part, "more_body": True})
        self._is_sending = False

    async def _mind(self, send: Send) -> None:
        """Pings while nothing else is sent; ends if what is sent is not read."""
        while True:
            silent = monotonic() - self._since
            if self._is_sending:
                if silent >= self._patience:
                    return
                await asyncio.sleep(min(self._patience - silent, 1))
            elif self._seconds <= 0:
                await asyncio.sleep(1)
            elif silent >= self._seconds:
                await self._send(send, self._ping)
            else:
                await asyncio.sleep(self._seconds - silent)


async def ended(*tasks: "asyncio.Future[Any]") -> None:
    """Cancels tasks and waits until they have ended, whatever they ended with."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Begun(Generic[T]):
    """Events of which the first one is waited for already; to be closed, whether it was read or not."""

    def __init__(self, events: AsyncGenerator[T, None]) -> None:
        self._events = events
        self.first: asyncio.Future[Any] | None = asyncio.ensure_future(anext(events, _END))

    def __aiter__(self) -> "Begun[T]":
        return self

    async def __anext__(self) -> T:
        if self.first is None:
            return await anext(self._events)
        event = await self.first
        self.first = None
        if event is _END:
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Ends the waiting and the events."""
        if self.first is not None:
            await ended(self.first)
        await self._events.aclose()


async def begun(events: AsyncGenerator[T, None], seconds: float) -> Begun[T]:
    """The same events, once the first one has come or so many seconds have passed.

    What is wrong with a request is known by then, and can still be an HTTP status: it is raised.
    """
    found = Begun(events)
    try:
        assert found.first is not None
        done, _ = await asyncio.wait({found.first}, timeout=seconds)
        if done:
            found.first.result()
    except BaseException:
        await found.aclose()
        raise
    return found
