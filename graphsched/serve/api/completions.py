"""`/v1/completions`, as OpenAI has it: prompts of text or tokens that are continued."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched import __version__
from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.events import DONE, data
from graphsched.serve.api.failures import refused
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.figures import FINISH, NO_CHANCE, timings, token_text, totals, usage
from graphsched.serve.api.generation import GENERATION, MAX_ANSWERS, request_of
from graphsched.serve.api.kinds import Flag, Text, integer
from graphsched.serve.api.many import answers_of, finished
from graphsched.serve.api.prompts import PROMPT, ids_of, prompts_of
from graphsched.serve.api.served import Served
from graphsched.serve.api.streams import streamed
from graphsched.serve.request import Chosen, Done, Piece, Request

MAX_PROBS: Final = 20
FIELDS: Final = table(
    Field("prompt", PROMPT, required=True, help="a text, tokens, or several of them"),
    GENERATION,
    Field("n", integer(1, MAX_ANSWERS), help="answers to each prompt"),
    Field(
        "logprobs", integer(0, MAX_PROBS), help="tell log probabilities, and so many of the likeliest tokens"
    ),
    Field("echo", Flag(), help="the prompt in front of the answer"),
    Field("suffix", Text(), help="not supported"),
    Field("stream_options", table(Field("include_usage", Flag())), help="usage at the end of a stream"),
)


@dataclass(frozen=True)
class Reply:
    """What is the same in all parts of a response. prompts: texts in front of the answers, "" without echo."""

    served: Served
    requests: tuple[Request, ...]
    prompts: tuple[str, ...]
    id: str
    n_top: int | None
    has_usage: bool
    has_timings: bool

    def head(self) -> dict[str, Any]:
        """The fields of every part."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.served.now(),
            "model": self.served.name,
            "system_fingerprint": f"graphsched-{__version__}",
        }

    def echoed(self, index: int) -> str:
        """What stands in front of answer number `index` of all."""
        return self.prompts[index // self.requests[0].n]


async def complete(call: Call) -> Response:
    """Continues prompts."""
    reply = await asyncio.to_thread(reply_to, call)
    if call.values.get("stream"):
        return await streamed(call.served, chunks(reply))
    found = await finished(call.served, reply.requests)
    choices = [
        _choice(reply, i, reply.echoed(i) + a.text, a.chosen, a.done, len(reply.echoed(i)))
        for i, a in enumerate(found)
    ]
    total = totals(reply.requests, [answer.done for answer in found])
    return JSONResponse(reply.head() | {"choices": choices, "usage": usage(total), "timings": timings(total)})


def reply_to(call: Call) -> Reply:
    """What is asked for. Failure for values that cannot be used."""
    v, id, tokenizer = call.values, f"cmpl-{secrets.token_hex(12)}", call.served.service.tokenizer
    if v.get("suffix"):
        raise refused("suffix", "is given, text is only made behind a prompt")
    n_top = v.get("logprobs")
    n_probs = 0 if n_top is None else max(1, n_top)
    prompts = [ids_of(call.served, p, "prompt") for p in prompts_of(v["prompt"])]
    requests = tuple(
        request_of(v, call.served, ids, n=v.get("n", 1), n_probs=n_probs, name=id) for ids in prompts
    )
    texts = tuple(tokenizer.decode(ids) if v.get("echo") else "" for ids in prompts)
    has_usage = v.get("stream_options", {}).get("include_usage", False)
    return Reply(call.served, requests, texts, id, n_top, has_usage, v.get("timings_per_token", False))


def _choice(
    reply: Reply, index: int, text: str, chosen: Sequence[Chosen], done: Done | None, offset: int
) -> dict[str, Any]:
    probs = None if reply.n_top is None else _probs(reply, chosen, offset)
    reason = FINISH[done.reason] if done else None
    return {"text": text, "index": index, "logprobs": probs, "finish_reason": reason}


def _probs(reply: Reply, chosen: Sequence[Chosen], offset: int) -> dict[str, Any]:
    """Log probabilities as OpenAI's completions have them: parallel lists."""
    tokenizer = reply.served.service.tokenizer
    texts = [token_text(tokenizer, one.token)[0] for one in chosen]
    offsets = [offset + sum(map(len, texts[:i])) for i in range(len(texts))]
    top = [
        {token_text(tokenizer, t.token)[0]: max(t.logprob, NO_CHANCE) for t in one.likeliest}
        for one in chosen
    ]
    return {
        "tokens": texts,
        "token_logprobs": [max(one.logprob, NO_CHANCE) for one in chosen],
        "top_logprobs": top if reply.n_top else None,
        "text_offset": offsets,
    }


async def chunks(reply: Reply) -> AsyncGenerator[bytes, None]:
    """The events of a stream."""
    ends: dict[int, Done] = {}
    sent: dict[int, int] = {}
    async with aclosing(answers_of(reply.served, reply.requests)) as events:
        async for index, event in events:
            before = "" if index in sent else reply.echoed(index)
            text = before + (event.text if isinstance(event, Piece) else "")
            chosen = event.chosen if isinstance(event, Piece) else ()
            done = event if isinstance(event, Done) else None
            offset = sent.get(index, 0) + len(before)
            sent[index] = sent.get(index, 0) + len(text)
            ends |= {index: done} if done else {}
            if text or chosen or done:
                yield _chunk(reply, _choice(reply, index, text, chosen, done, offset), done)
    if reply.has_usage:
        total = totals(reply.requests, [ends[i] for i in sorted(ends)])
        yield data(reply.head() | {"choices": [], "usage": usage(total), "timings": timings(total)})
    yield DONE


def _chunk(reply: Reply, choice: dict[str, Any], done: Done | None) -> bytes:
    body = reply.head() | {"choices": [choice]} | ({"usage": None} if reply.has_usage else {})
    return data(body | ({"timings": timings(done.timings)} if done else {}))


ENDPOINTS: Final = (
    Endpoint("POST", ("/v1/completions",), complete, "Continues prompts", FIELDS, computes=True),
)
