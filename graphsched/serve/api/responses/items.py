"""An answer as items of OpenAI's responses: reasoning, a message, or a function call."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from graphsched.serve.api.passages import Passage
from graphsched.serve.request import Done, RequestTimings

Values = Mapping[str, Any]
_PREFIXES: Final = {"thoughts": "rs", "text": "msg", "call": "fc"}


def item_id(id: str, passage: Passage) -> str:
    """The name of an item; `id`: that of the response."""
    return f"{_PREFIXES[passage.kind]}_{id.partition('_')[2]}{passage.index:x}"


def part(passage: Passage, text: str) -> dict[str, Any]:
    """The content of an item that has one."""
    if passage.kind == "thoughts":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def item(id: str, passage: Passage, status: str) -> dict[str, Any]:
    """An item, empty while it is in progress."""
    name, is_begun = item_id(id, passage), status == "in_progress"
    if passage.kind == "call":
        arguments = "" if is_begun else passage.text
        call = {"call_id": passage.id, "name": passage.name, "arguments": arguments}
        return {"type": "function_call", "id": name, "status": status, **call}
    content = [] if is_begun else [part(passage, passage.text)]
    if passage.kind == "thoughts":
        return {"type": "reasoning", "id": name, "status": status, "summary": [], "content": content}
    return {"type": "message", "id": name, "status": status, "role": "assistant", "content": content}


def said(passages: Iterable[Passage]) -> dict[str, Any]:
    """The same answer as a message of a chat, for the conversation that goes on."""
    found: dict[str, Any] = {"role": "assistant", "content": ""}
    for passage in passages:
        if passage.kind == "text":
            found["content"] += passage.text
        elif passage.kind == "thoughts":
            found["reasoning_content"] = found.get("reasoning_content", "") + passage.text
        else:
            function = {"name": passage.name, "arguments": passage.text}
            call = {"id": passage.id, "type": "function", "function": function}
            found.setdefault("tool_calls", []).append(call)
    return found


def response(id: str, model: str, created: int, v: Values) -> dict[str, Any]:
    """A response that has just begun; `v`: the fields of its request."""
    return {
        "id": id,
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": v.get("instructions"),
        "max_output_tokens": v.get("n_predict"),
        "metadata": v.get("metadata", {}),
        "model": model,
        "output": [],
        "parallel_tool_calls": v.get("parallel_tool_calls", True),
        "previous_response_id": v.get("previous_response_id"),
        "reasoning": {"effort": v.get("reasoning", {}).get("effort"), "summary": None},
        "store": v.get("store", True),
        "temperature": v.get("temperature"),
        "text": {"format": v.get("text", {}).get("format", {"type": "text"})},
        "tool_choice": v.get("tool_choice", "auto"),
        "tools": [dict(tool) for tool in v.get("tools", ())],
        "top_p": v.get("top_p"),
        "truncation": "disabled",
        "usage": None,
    }


def ended(begun: Values, passages: Iterable[Passage], done: Done, n_thoughts: int) -> dict[str, Any]:
    """The response at its end; n_thoughts: tokens of thoughts."""
    is_cut = done.reason not in ("eog", "stop")
    status = "incomplete" if is_cut else "completed"
    return {
        **begun,
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": [item(begun["id"], passage, "completed") for passage in passages],
        "usage": usage(done.timings, n_thoughts),
    }


def usage(t: RequestTimings, n_thoughts: int) -> dict[str, Any]:
    """Tokens as OpenAI counts them here."""
    return {
        "input_tokens": t.prompt_tokens,
        "input_tokens_details": {"cached_tokens": t.cached_tokens},
        "output_tokens": t.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": n_thoughts},
        "total_tokens": t.prompt_tokens + t.generated_tokens,
    }
