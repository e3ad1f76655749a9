"""`/v1/chat/completions`, as OpenAI has it, with llama.cpp's extensions."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched import __version__
from graphsched.serve.api.chat_fields import FIELDS, TEMPLATE, conversation
from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.events import DONE, data
from graphsched.serve.api.figures import FINISH, Pace, logprobs, summed, timings, usage
from graphsched.serve.api.served import Served
from graphsched.serve.api.streams import streamed
from graphsched.serve.api.turns import Ended, Said, Turn, Whole, answered, prompt_of, turn_of, whole
from graphsched.serve.request import Chosen, Done
from graphsched.text.answer_stream import CallArguments, CallBegins, Delta
from graphsched.text.spoken import Text, Thought


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
    turn = await turn_of(call.served, conversation(v), id)
    has_usage = v.get("stream_options", {}).get("include_usage", False)
    return Reply(
        call.served, turn, id, v.get("logprobs", False), has_usage, v.get("timings_per_token", False)
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
    pace = Pace() if reply.has_timings else None
    async with aclosing(answered(reply.served, reply.turn)) as parts:
        async for part in parts:
            if part.index not in started:
                started.add(part.index)
                yield _chunk(reply, part.index, {"role": "assistant", "content": ""})
            if isinstance(part, Ended):
                ends.append(part.done)
                is_last = len(ends) == reply.turn.request.n
                yield _last(reply, part, timings(summed(ends)) if is_last else None)
                continue
            told = pace.after(part.n_tokens) if pace else None
            for chunk in _said(reply, part, told):
                yield chunk
    if reply.has_usage:
        head = reply.head("chat.completion.chunk")
        yield data(head | {"choices": [], "usage": usage(summed(ends)), "timings": timings(summed(ends))})
    yield DONE


def _said(reply: Reply, said: Said, told: dict[str, Any] | None) -> list[bytes]:
    """A chunk for each part; the first one has the probabilities of all tokens."""
    deltas = [delta(part) for part in said.parts] or ([{}] if said.chosen and reply.has_probs else [])
    return [
        _chunk(reply, said.index, d, () if i else said.chosen, timings=told) for i, d in enumerate(deltas)
    ]


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
    timings: dict[str, Any] | None = None,
) -> bytes:
    probs = _probs(reply, chosen) if chosen else None
    choice = {"index": index, "delta": delta, "logprobs": probs, "finish_reason": reason}
    body = reply.head("chat.completion.chunk") | {"choices": [choice]}
    return data(
        body | ({"usage": None} if reply.has_usage else {}) | ({"timings": timings} if timings else {})
    )


def _last(reply: Reply, end: Ended, timings: dict[str, Any] | None) -> bytes:
    return _chunk(reply, end.index, {}, (), finish(end.done, end.has_calls), timings)


async def apply_template(call: Call) -> Response:
    """The prompt that the template makes of a conversation."""
    prompt = await asyncio.to_thread(lambda: prompt_of(call.served, conversation(call.values)))
    return JSONResponse({"prompt": prompt})


__all__ = ["ENDPOINTS", "FIELDS", "conversation"]
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
