"""The items of OpenAI's responses as messages of its chats, which the shared part of chats takes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from graphsched.serve.api.failures import needed, refused

Values = Mapping[str, Any]
Message = dict[str, Any]
_TEXTS: Final = ("input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal")


def chat_values(v: Values, before: Sequence[Message] = ()) -> dict[str, Any]:
    """The fields of OpenAI's chats for messages, tools and thoughts; `before`: the conversation so far.

    Failure for items and values that are not supported, naming them.
    """
    system = [{"role": "system", "content": v["instructions"]}] if v.get("instructions") else []
    messages = [*system, *before, *asked(v["input"])]
    if not messages:
        raise refused("input", "is empty, a text or items are needed")
    _check(v)
    return {"messages": messages} | _tools(v) | _format(v) | _effort(v)


def _check(v: Values) -> None:
    if v.get("truncation") == "auto":
        raise refused("truncation", "is auto, conversations are never shortened; disabled is possible")
    if v.get("background"):
        raise refused("background", "is true, answers are made while their client waits")


def asked(given: "str | Sequence[Values]") -> list[Message]:
    """The messages of an input."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}] if given else []
    found: list[Message] = []
    for i, item in enumerate(given):
        _add(found, item, f"input[{i}]")
    return found


def _add(messages: list[Message], item: Values, at: str) -> None:
    """Adds an item; those of one assistant's turn are one message."""
    kind = item.get("type", "message")
    if kind == "function_call_output":
        text = _text(needed(item, "output", at), f"{at}.output")
        messages.append({"role": "tool", "tool_call_id": needed(item, "call_id", at), "content": text})
    elif kind == "function_call":
        _assistant(messages, starts=False).setdefault("tool_calls", []).append(_call(item, at))
    elif kind == "reasoning":
        thoughts = _text(item.get("content") or item.get("summary", ()), at)
        message = _assistant(messages, starts=True)
        message["reasoning_content"] = message.get("reasoning_content", "") + thoughts
    elif kind == "message":
        _say(messages, item, at)
    else:
        raise refused(f"{at}.type", f"is {json.dumps(kind)}, which is not read here")


def _say(messages: list[Message], item: Values, at: str) -> None:
    role, text = needed(item, "role", at), _text(needed(item, "content", at), f"{at}.content")
    if role == "assistant":
        message = _assistant(messages, starts=True)
        message["content"] += text
    else:
        messages.append({"role": role, "content": text})


def _assistant(messages: list[Message], *, starts: bool) -> Message:
    """The assistant's message that an item belongs to; `starts`: a message with calls has ended before it."""
    last = messages[-1] if messages else {}
    if last.get("role") != "assistant" or (starts and "tool_calls" in last):
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _call(item: Values, at: str) -> dict[str, Any]:
    function = {"name": needed(item, "name", at), "arguments": item.get("arguments", "{}")}
    return {"id": needed(item, "call_id", at), "type": "function", "function": function}


def _text(content: "str | Sequence[Values]", at: str) -> str:
    if isinstance(content, str):
        return content
    for i, part in enumerate(content):
        if part["type"] not in _TEXTS:
            raise refused(f"{at}[{i}].type", f"is {json.dumps(part['type'])}, only text is read")
    return "".join(part.get("text", part.get("refusal", "")) for part in content)


def _tools(v: Values) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if v.get("tools"):
        found["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(v["tools"])]
    if "parallel_tool_calls" in v:
        found["parallel_tool_calls"] = v["parallel_tool_calls"]
    return found | ({"tool_choice": _choice(v)} if "tool_choice" in v else {})


def _tool(tool: Values, at: str) -> dict[str, Any]:
    if tool["type"] != "function":
        raise refused(f"{at}.type", f"is {json.dumps(tool['type'])}, only functions of the client are called")
    names = ("name", "description", "parameters", "strict")
    needed(tool, "name", at)
    return {"type": "function", "function": {name: tool[name] for name in names if name in tool}}


def _choice(v: Values) -> Any:
    choice = v["tool_choice"]
    if isinstance(choice, str):
        return choice
    if choice["name"] not in {tool.get("name") for tool in v.get("tools", ())}:
        raise refused("tool_choice.name", f"is {json.dumps(choice['name'])}, which is no name in tools")
    return {"type": "function", "function": {"name": choice["name"]}}


def _format(v: Values) -> dict[str, Any]:
    wanted = v.get("text", {}).get("format", {"type": "text"})
    if wanted["type"] == "text":
        return {}
    if wanted["type"] == "json_object":
        return {"response_format": {"type": "json_object"}}
    schema = {"name": wanted.get("name", "answer"), "schema": needed(wanted, "schema", "text.format")}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _effort(v: Values) -> dict[str, Any]:
    effort = v.get("reasoning", {}).get("effort")
    return {} if effort is None else {"reasoning_effort": effort}
