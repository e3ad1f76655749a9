"""The endpoints of OpenAI's responses."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched.serve.api import chat_fields
from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import not_found
from graphsched.serve.api.kept_responses import Stored
from graphsched.serve.api.passages import Passages
from graphsched.serve.api.responses import items
from graphsched.serve.api.responses.conversation import asked, chat_values
from graphsched.serve.api.responses.fields import FIELDS
from graphsched.serve.api.responses.stream import Numbered, error_form
from graphsched.serve.api.served import Served
from graphsched.serve.api.streams import streamed
from graphsched.serve.api.turns import Ended, Said, Turn, answered, turn_of
from graphsched.serve.request import Done
from graphsched.text.spoken import Thought


@dataclass
class Reply:
    """A response on its way. messages: the conversation in front of it, without instructions."""

    served: Served
    turn: Turn
    response: dict[str, Any]
    messages: tuple[dict[str, Any], ...]
    passages: Passages
    n_thoughts: int = 0

    def count(self, said: Said) -> None:
        """Counts tokens that begin in thoughts."""
        if said.parts and isinstance(said.parts[0], Thought):
            self.n_thoughts += said.n_tokens

    def ended(self, done: Done) -> dict[str, Any]:
        """The response at its end, which is kept unless the client does not want that."""
        found = items.ended(self.response, self.passages.all, done, self.n_thoughts)
        if found["store"]:
            messages = (*self.messages, items.said(self.passages.all))
            self.served.responses.put(Stored(found, messages))
        return found


async def create(call: Call) -> Response:
    """Answers an input."""
    reply = await reply_to(call)
    if call.values.get("stream"):
        return await streamed(call.served, stream(reply), form=error_form, error_event="error")
    return JSONResponse(await _whole(reply))


async def reply_to(call: Call) -> Reply:
    """What is asked for. Failure for values that cannot be used, and a response that is not kept any more."""
    v, id = call.values, f"resp_{secrets.token_hex(12)}"
    before = _stored(call.served, v["previous_response_id"]).messages if "previous_response_id" in v else ()
    read = chat_fields.FIELDS.read(chat_values(v, before))
    turn = await turn_of(call.served, chat_fields.conversation({**v, **read}), id)
    response = items.response(id, call.served.name, call.served.now(), v)
    return Reply(call.served, turn, response, (*before, *asked(v["input"])), Passages())


def _stored(served: Served, id: str) -> Stored:
    if (found := served.responses.get(id)) is None:
        raise not_found(f"there is no response {id}, it was not stored or others came after it")
    return found


async def _whole(reply: Reply) -> dict[str, Any]:
    async with aclosing(answered(reply.served, reply.turn)) as parts:
        async for part in parts:
            if isinstance(part, Ended):
                return reply.ended(part.done)
            reply.count(part)
            list(reply.passages.push(part.parts))
    raise AssertionError("an answer has an end")


async def stream(reply: Reply) -> AsyncGenerator[bytes, None]:
    """The events of a response. The first one waits for the service, which may refuse the request."""
    numbered, has_begun = Numbered(reply.response["id"]), False
    async with aclosing(answered(reply.served, reply.turn)) as parts:
        async for part in parts:
            if not has_begun:
                has_begun = True
                yield numbered.event("response.created", response=reply.response)
                yield numbered.event("response.in_progress", response=reply.response)
            if isinstance(part, Ended):
                changes, last = reply.passages.finish(), reply.ended(part.done)
            else:
                reply.count(part)
                changes, last = reply.passages.push(part.parts), None
            for event in numbered.changed(changes):
                yield event
            if last is not None:
                yield numbered.event(f"response.{last['status']}", response=last)


async def retrieve(call: Call) -> Response:
    """A response that is kept."""
    return JSONResponse(dict(_stored(call.served, call.path["id"]).response))


async def delete(call: Call) -> Response:
    """Forgets a response."""
    id = call.path["id"]
    _stored(call.served, id)
    call.served.responses.remove(id)
    return JSONResponse({"id": id, "object": "response", "deleted": True})


_ONE: Final = ("/v1/responses/{id}",)
ENDPOINTS: Final = (
    Endpoint("POST", ("/v1/responses",), create, "Answers an input", FIELDS, computes=True),
    Endpoint("GET", _ONE, retrieve, "A response that is kept"),
    Endpoint("DELETE", _ONE, delete, "Forgets a response"),
)
