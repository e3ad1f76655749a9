"""The endpoints of Anthropic's interface."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import chain
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched.serve.api import chat_fields
from graphsched.serve.api.anthropic import replies
from graphsched.serve.api.anthropic.conversation import chat_values
from graphsched.serve.api.anthropic.fields import COUNTED, FIELDS
from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.passages import Passages
from graphsched.serve.api.served import Served
from graphsched.serve.api.streams import streamed
from graphsched.serve.api.turns import Conversation, Ended, Turn, answered, prompt_of, turn_of


async def create(call: Call) -> Response:
    """Answers a conversation."""
    id = f"msg_{secrets.token_hex(12)}"
    turn = await turn_of(call.served, conversation(call), id)
    if call.values.get("stream"):
        events = stream(call.served, turn, id)
        return await streamed(call.served, events, form=replies.form, error_event="error", ping=replies.PING)
    return JSONResponse(await _message(call.served, turn, id))


def conversation(call: Call) -> Conversation:
    """What is to be answered."""
    return chat_fields.conversation({**call.values, **chat_fields.FIELDS.read(chat_values(call.values))})


async def _message(served: Served, turn: Turn, id: str) -> dict[str, Any]:
    passages = Passages()
    async with aclosing(answered(served, turn)) as parts:
        async for part in parts:
            if isinstance(part, Ended):
                return replies.message(id, served.name, passages.all, part.done)
            list(passages.push(part.parts))
    raise AssertionError("an answer has an end")


async def stream(served: Served, turn: Turn, id: str) -> AsyncGenerator[bytes, None]:
    """The events of an answer. The first one waits for the service, which may refuse the request."""
    passages, has_begun = Passages(), False
    async with aclosing(answered(served, turn)) as parts:
        async for part in parts:
            if not has_begun:
                has_begun = True
                yield replies.start(id, served.name, len(turn.request.prompt))
            if isinstance(part, Ended):
                changes, last = passages.finish(), replies.end(part.done, has_calls=part.has_calls)
            else:
                changes, last = passages.push(part.parts), iter(())
            for event in chain(replies.changed(changes), last):
                yield event


async def count(call: Call) -> Response:
    """The tokens that a conversation has as a prompt."""
    asked = conversation(call)
    encode = call.served.service.tokenizer.encode_prompt
    n = await asyncio.to_thread(lambda: len(encode(prompt_of(call.served, asked))))
    return JSONResponse({"input_tokens": n})


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        ("/v1/messages",),
        create,
        "Answers a conversation, as Anthropic has it",
        FIELDS,
        form=replies.form,
        computes=True,
    ),
    Endpoint(
        "POST",
        ("/v1/messages/count_tokens",),
        count,
        "Counts the tokens of a conversation",
        COUNTED,
        form=replies.form,
    ),
)
