"""An answer as Anthropic's message, whole and as events of a stream."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from graphsched.serve.api.events import data
from graphsched.serve.api.failures import Failure
from graphsched.serve.api.passages import Begins, Change, Grows, Passage
from graphsched.serve.request import Done, Reason, RequestTimings

_STOPS: Final[dict[Reason, str]] = {
    "eog": "end_turn",
    "stop": "stop_sequence",
    "limit": "max_tokens",
    "context": "model_context_window_exceeded",
    "abort": "max_tokens",
}
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}
PING: Final = data({"type": "ping"}, "ping")


def form(failure: Failure) -> dict[str, Any]:
    """The JSON of an error as Anthropic's clients read it."""
    kind = _TYPES.get(failure.status, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": _sentence(failure)}}


def _sentence(failure: Failure) -> str:
    """Claude Code shortens a conversation when it reads that the prompt is too long, in these words."""
    n, most = failure.more.get("n_prompt_tokens"), failure.more.get("n_ctx")
    return failure.what if n is None else f"prompt is too long: {n} tokens > {most} maximum"


def usage(t: RequestTimings) -> dict[str, int]:
    """Tokens as Anthropic counts them: those of the input are without the reused ones."""
    return {
        "input_tokens": t.prompt_tokens - t.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": t.cached_tokens,
        "output_tokens": t.generated_tokens,
    }


def why(done: Done, *, has_calls: bool) -> dict[str, Any]:
    """Why an answer ended."""
    reason = "tool_use" if has_calls and done.reason == "eog" else _STOPS[done.reason]
    return {"stop_reason": reason, "stop_sequence": done.stopped_by or None}


def message(id: str, model: str, passages: Iterable[Passage], done: Done) -> dict[str, Any]:
    """A whole answer."""
    found = [_whole(passage) for passage in passages]
    has_calls = any(passage["type"] == "tool_use" for passage in found)
    return _head(id, model, found) | why(done, has_calls=has_calls) | {"usage": usage(done.timings)}


def _head(id: str, model: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": id, "type": "message", "role": "assistant", "model": model, "content": content}


def _whole(passage: Passage) -> dict[str, Any]:
    if passage.kind == "text":
        return {"type": "text", "text": passage.text}
    if passage.kind == "thoughts":
        return {"type": "thinking", "thinking": passage.text, "signature": ""}
    return {"type": "tool_use", "id": passage.id, "name": passage.name, "input": _input(passage.text)}


def _input(text: str) -> dict[str, Any]:
    """The arguments of a call; what is no object, as of an answer that was cut off, is shown as it is."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {"arguments": text}
    return found if isinstance(found, dict) else {"arguments": found}


def start(id: str, model: str, n_prompt: int) -> bytes:
    """The event in front of all others. How much was reused is not known yet, the last event tells it."""
    ends = {
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage(RequestTimings(prompt_tokens=n_prompt)),
    }
    return _event("message_start", message=_head(id, model, []) | ends)


def changed(changes: Iterable[Change]) -> Iterator[bytes]:
    """The events that tell how passages change."""
    for change in changes:
        index = change.passage.index
        if isinstance(change, Begins):
            yield _event("content_block_start", index=index, content_block=_empty(change.passage))
        elif isinstance(change, Grows):
            yield _event("content_block_delta", index=index, delta=_delta(change))
        else:
            yield _event("content_block_stop", index=index)


def _empty(passage: Passage) -> dict[str, Any]:
    if passage.kind == "text":
        return {"type": "text", "text": ""}
    if passage.kind == "thoughts":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "tool_use", "id": passage.id, "name": passage.name, "input": {}}


def _delta(grows: Grows) -> dict[str, Any]:
    if grows.passage.kind == "text":
        return {"type": "text_delta", "text": grows.text}
    if grows.passage.kind == "thoughts":
        return {"type": "thinking_delta", "thinking": grows.text}
    return {"type": "input_json_delta", "partial_json": grows.text}


def end(done: Done, *, has_calls: bool) -> Iterator[bytes]:
    """The events behind all others."""
    yield _event("message_delta", delta=why(done, has_calls=has_calls), usage=usage(done.timings))
    yield _event("message_stop")


def _event(name: str, **fields: Any) -> bytes:
    return data({"type": name} | fields, name)
