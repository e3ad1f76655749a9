"""`/v1/chat/completions`, as OpenAI has it, with llama.cpp's extensions."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched import __version__
from graphsched.serve.api.answer_parts import CallArguments, CallBegins, Delta, Text, Thought
from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.events import DONE, data
from graphsched.serve.api.failures import refused
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.figures import FINISH, logprobs, summed, timings, usage
from graphsched.serve.api.generation import GENERATION, LIMIT, MAX_ANSWERS
from graphsched.serve.api.kinds import AnyObject, Flag, integer
from graphsched.serve.api.messages import MESSAGES, plain_messages
from graphsched.serve.api.served import Served
from graphsched.serve.api.streams import streamed
from graphsched.serve.api.turns import (
    Conversation,
    Ended,
    Said,
    Turn,
    Whole,
    answered,
    prompt_of,
    turn_of,
    whole,
)
from graphsched.serve.request import Chosen, Done

MAX_TOP: Final = 20
FIELDS: Final = table(
    MESSAGES,
    GENERATION,
    Field("max_completion_tokens", LIMIT, "n_predict", help="tokens of an answer, thoughts included"),
    Field("n", integer(1, MAX_ANSWERS), help="answers"),
    Field("logprobs", Flag(), help="tell the log probability of each token"),
    Field("top_logprobs", integer(0, MAX_TOP), help="and so many of the likeliest ones"),
    Field("stream_options", table(Field("include_usage", Flag())), help="usage at the end of a stream"),
    Field("chat_template_kwargs", AnyObject(), help="further values for the template"),
)
TEMPLATE: Final = table(MESSAGES, Field("chat_template_kwargs", AnyObject()))


@dataclass(frozen=True)
class Reply:
    """What is the same in all parts of a response."""

    served: Served
    turn: Turn
    id: str
    has_probs: bool
    has_usage: bool
    has_timings: bool

    def head(self, kind: str) -> dict[str, Any]:
        """The fields of every part."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.served.now(),
            "model": self.served.name,
            "system_fingerprint": f"graphsched-{__version__}",
        }


async def complete(call: Call) -> Response:
    """Answers a conversation."""
    reply = await reply_to(call)
    if call.values.get("stream"):
        return await streamed(call.served, chunks(reply))
    answers = await whole(call.served, reply.turn)
    return JSONResponse(_body(reply, answers))


async def reply_to(call: Call) -> Reply:
    """What is asked for. Failure for values that do not go together."""
    v, id = call.values, f"chatcmpl-{secrets.token_hex(12)}"
    has_probs = v.get("logprobs", False)
    if v.get("top_logprobs") and not has_probs:
        raise refused("top_logprobs", "needs logprobs: true")
    turn = await turn_of(call.served, conversation(v), id)
    has_usage = v.get("stream_options", {}).get("include_usage", False)
    return Reply(call.served, turn, id, has_probs, has_usage, v.get("timings_per_token", False))


def conversation(v: Mapping[str, Any]) -> Conversation:
    """What is to be answered."""
    n_probs = max(1, v.get("top_logprobs", 0)) if v.get("logprobs") else 0
    return Conversation(
        plain_messages(v["messages"]), v, v.get("n", 1), n_probs, v.get("chat_template_kwargs", {})
    )


def _body(reply: Reply, answers: list[Whole]) -> dict[str, Any]:
    total = summed(answer.done for answer in answers if answer.done)
    choices = [_choice(reply, i, answer) for i, answer in enumerate(answers)]
    return reply.head("chat.completion") | {
        "choices": choices,
        "usage": usage(total),
        "timings": timings(total),
    }


def _choice(reply: Reply, index: int, answer: Whole) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or (None if answer.calls else "")}
    if answer.thoughts:
        message["reasoning_content"] = answer.thoughts
    if answer.calls:
        message["tool_calls"] = [
            {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
            for c in answer.calls
        ]
    return {
        "index": index,
        "message": message,
        "logprobs": _probs(reply, answer.chosen),
        "finish_reason": finish(answer.done, bool(answer.calls)),
    }


def finish(done: Done | None, has_calls: bool) -> str:
    """Why an answer ended, in OpenAI's words."""
    reason = FINISH[done.reason] if done else "stop"
    return "tool_calls" if has_calls and reason == "stop" else reason


def _probs(reply: Reply, chosen: "list[Chosen] | tuple[Chosen, ...]") -> dict[str, Any] | None:
    if not reply.has_probs:
        return None
    return {"content": logprobs(reply.served.service.tokenizer, chosen), "refusal": None}


async def chunks(reply: Reply) -> AsyncGenerator[bytes, None]:
    """The events of a stream."""
    ends: list[Done] = []
    started: set[int] = set()
    async with aclosing(answered(reply.served, reply.turn)) as parts:
        async for part in parts:
            if part.index not in started:
                started.add(part.index)
                yield _chunk(reply, part.index, {"role": "assistant", "content": ""})
            if isinstance(part, Ended):
                ends.append(part.done)
                yield _last(reply, part, summed(ends) if len(ends) == reply.turn.request.n else None)
            else:
                for chunk in _said(reply, part):
                    yield chunk
    if reply.has_usage:
        head = reply.head("chat.completion.chunk")
        yield data(head | {"choices": [], "usage": usage(summed(ends)), "timings": timings(summed(ends))})
    yield DONE


def _said(reply: Reply, said: Said) -> list[bytes]:
    """A chunk for each part; the first one has the probabilities of all tokens."""
    deltas = [delta(part) for part in said.parts] or ([{}] if said.chosen and reply.has_probs else [])
    return [_chunk(reply, said.index, d, () if i else said.chosen) for i, d in enumerate(deltas)]


def delta(part: Delta) -> dict[str, Any]:
    """A part of an answer as OpenAI's streams have it."""
    if isinstance(part, Text):
        return {"content": part.text}
    if isinstance(part, Thought):
        return {"reasoning_content": part.text}
    if isinstance(part, CallBegins):
        function = {"name": part.name, "arguments": ""}
        return {
            "tool_calls": [{"index": part.index, "id": part.id, "type": "function", "function": function}]
        }
    assert isinstance(part, CallArguments)
    return {"tool_calls": [{"index": part.index, "function": {"arguments": part.text}}]}


def _chunk(
    reply: Reply,
    index: int,
    delta: dict[str, Any],
    chosen: tuple[Chosen, ...] = (),
    reason: str | None = None,
) -> bytes:
    probs = _probs(reply, chosen) if chosen else None
    choice = {"index": index, "delta": delta, "logprobs": probs, "finish_reason": reason}
    body = reply.head("chat.completion.chunk") | {"choices": [choice]}
    return data(body | ({"usage": None} if reply.has_usage else {}))


def _last(reply: Reply, end: Ended, total: Any) -> bytes:
    return _chunk(reply, end.index, {}, (), finish(end.done, end.has_calls))


async def apply_template(call: Call) -> Response:
    """The prompt that the template makes of a conversation."""
    prompt = await asyncio.to_thread(lambda: prompt_of(call.served, conversation(call.values)))
    return JSONResponse({"prompt": prompt})


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        ("/v1/chat/completions", "/chat/completions"),
        complete,
        "Answers a chat",
        FIELDS,
        computes=True,
    ),
    Endpoint("POST", ("/apply-template",), apply_template, "The prompt of a conversation", TEMPLATE),
)
