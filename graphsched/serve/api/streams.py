"""Streams of events over HTTP: their first event is waited for, an error behind it is an event itself."""

from collections.abc import AsyncGenerator
from typing import Final

from graphsched.serve.api.events import PING, Events, begun, data
from graphsched.serve.api.failures import Form, failure_of, openai_form
from graphsched.serve.api.served import Served

FIRST: Final = 1.0  # seconds in which an error is an HTTP status still


async def streamed(
    served: Served,
    events: AsyncGenerator[bytes, None],
    *,
    form: Form = openai_form,
    error_event: str = "",
    ping: bytes = PING,
) -> Events:
    """The response that sends events as they come. Raises what the first one raises, if that is at once."""
    o = served.options
    first = await begun(events, FIRST)
    return Events(
        first, lambda e: data(form(failure_of(e)), error_event), o.sse_ping_interval, o.timeout, ping
    )
