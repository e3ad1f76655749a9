"""`/completion`, llama.cpp's own: a prompt that is continued, with all that is known about how."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched.option import shown
from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.events import data
from graphsched.serve.api.failures import llama_form
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.figures import Pace, logprobs, timings
from graphsched.serve.api.generation import GENERATION, MAX_ANSWERS, MAX_PROBS, request_of
from graphsched.serve.api.kinds import Flag, integer
from graphsched.serve.api.many import Finished, answers_of, finished
from graphsched.serve.api.prompts import PROMPT, ids_of, prompts_of
from graphsched.serve.api.served import Served
from graphsched.serve.api.streams import streamed
from graphsched.serve.request import Done, Piece, Reason, Request

FIELDS: Final = table(
    Field("prompt", PROMPT, required=True, help="a text, tokens, or several of them"),
    GENERATION,
    Field("n_cmpl", integer(1, MAX_ANSWERS), "n", help="answers to each prompt"),
    Field(
        "n_probs", integer(0, MAX_PROBS), help="tell log probabilities, of so many of the likeliest tokens"
    ),
    Field("return_tokens", Flag(), help="tell the tokens, too"),
)
STOP_TYPES: Final[dict[Reason, str]] = {
    "eog": "eos",
    "stop": "word",
    "limit": "limit",
    "context": "limit",
    "abort": "none",
}


@dataclass(frozen=True)
class Reply:
    """What is the same in all parts of a response; is_single: one prompt, whose answer is no list."""

    served: Served
    requests: tuple[Request, ...]
    is_single: bool
    has_tokens: bool
    has_timings: bool

    def request(self, index: int) -> Request:
        """The request of answer number `index` of all."""
        return self.requests[index // self.requests[0].n]


async def complete(call: Call) -> Response:
    """Continues prompts."""
    reply = await asyncio.to_thread(reply_to, call)
    if call.values.get("stream"):
        return await streamed(call.served, chunks(reply), form=llama_form)
    found = await finished(call.served, reply.requests)
    answers = [whole(reply, i, answer) for i, answer in enumerate(found)]
    return JSONResponse(answers[0] if reply.is_single else answers)


def reply_to(call: Call) -> Reply:
    """What is asked for. Failure for values that cannot be used."""
    v, id = call.values, f"cmpl-{secrets.token_hex(12)}"
    prompts = [ids_of(call.served, p, "prompt") for p in prompts_of(v["prompt"])]
    n, n_probs = v.get("n", 1), v.get("n_probs", 0)
    requests = tuple(request_of(v, call.served, ids, n=n, n_probs=n_probs, name=id) for ids in prompts)
    has = v.get("return_tokens", False), v.get("timings_per_token", False)
    return Reply(call.served, requests, len(requests) * n == 1, *has)


def whole(reply: Reply, index: int, answer: Finished) -> dict[str, Any]:
    """An answer that has ended."""
    end = last(reply, index, answer.done, "\n" in answer.text)
    end |= {"content": answer.text, "tokens": answer.tokens if reply.has_tokens else []}
    probs = logprobs(reply.served.service.tokenizer, answer.chosen)
    return end | ({"completion_probabilities": probs} if reply.request(index).n_probs else {})


def last(reply: Reply, index: int, done: Done, has_new_line: bool) -> dict[str, Any]:
    """What is told at the end of an answer; its text is not among it."""
    request, t = reply.request(index), done.timings
    return {
        "index": index,
        "content": "",
        "tokens": [],
        "id_slot": -1 if request.slot is None else request.slot,
        "stop": True,
        "model": reply.served.name,
        "tokens_predicted": t.generated_tokens,
        "tokens_evaluated": t.prompt_tokens,
        "generation_settings": settings(reply.served, request),
        "prompt": reply.served.service.tokenizer.decode(request.prompt),
        "has_new_line": has_new_line,
        "truncated": done.reason == "context",
        "stop_type": STOP_TYPES[done.reason],
        "stopping_word": done.stopped_by,
        "tokens_cached": t.cached_tokens,
        "timings": timings(t),
    }


def settings(served: Served, request: Request) -> dict[str, Any]:
    """How text is made, by llama.cpp's names."""
    sampling = request.sampling
    return shown(sampling) | {
        "samplers": list(sampling.order),
        "dry_sequence_breakers": list(sampling.dry_sequence_breakers),
        "seed": -1 if sampling.seed is None else sampling.seed,
        "n_predict": request.n_predict,
        "stop": list(request.stop),
        "ignore_eos": request.ignore_eos,
        "n_probs": request.n_probs,
        "n_ctx": served.service.n_ctx,
        "model": served.name,
    }


async def chunks(reply: Reply) -> AsyncGenerator[bytes, None]:
    """The events of a stream; the last one of each answer has `stop`."""
    count: dict[int, int] = {}
    pace = Pace() if reply.has_timings else None
    broken: set[int] = set()
    async with aclosing(answers_of(reply.served, reply.requests)) as events:
        async for index, event in events:
            if isinstance(event, Done):
                yield data(last(reply, index, event, index in broken))
                continue
            count[index] = count.get(index, 0) + len(event.tokens)
            broken |= {index} if "\n" in event.text else set()
            if event.text or event.chosen:
                told = {"timings": pace.after(len(event.tokens))} if pace else {}
                yield data(_part(reply, index, event, count[index]) | told)


def _part(reply: Reply, index: int, piece: Piece, n: int) -> dict[str, Any]:
    request = reply.request(index)
    found = {
        "index": index,
        "content": piece.text,
        "tokens": list(piece.tokens),
        "stop": False,
        "id_slot": -1 if request.slot is None else request.slot,
        "tokens_predicted": n,
        "tokens_evaluated": len(request.prompt),
    }
    probs = logprobs(reply.served.service.tokenizer, piece.chosen)
    return found | ({"completion_probabilities": probs} if request.n_probs else {})


ENDPOINTS: Final = (
    Endpoint(
        "POST",
        ("/completion", "/completions"),
        complete,
        "Continues prompts, as llama.cpp does",
        FIELDS,
        form=llama_form,
        computes=True,
    ),
)
