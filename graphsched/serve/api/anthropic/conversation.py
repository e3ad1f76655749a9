"""Anthropic's messages as OpenAI's, which the shared part of chats takes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from graphsched.serve.api.failures import needed, refused
from graphsched.serve.api.messages import text_of

Values = Mapping[str, Any]
# A line in front of Claude Code's system prompt, which changes with each request: behind it nothing could be reused.
_BILLING: Final = "x-anthropic-billing-header:"


def chat_values(v: Values) -> dict[str, Any]:
    """The fields of OpenAI's chats for messages, tools and thoughts. Failure for blocks that are not read."""
    messages = [*_system(v.get("system", "")), *_turns(v["messages"])]
    return {"messages": messages} | _tools(v) | _thinking(v) | _format(v)


def _system(given: "str | Sequence[Values]") -> list[dict[str, Any]]:
    parts = [given] if isinstance(given, str) else [text_of([p], f"system[{i}]") for i, p in enumerate(given)]
    text = "\n".join(part for part in parts if part and not part.startswith(_BILLING))
    return [{"role": "system", "content": text}] if text else []


def _turns(messages: Sequence[Values]) -> Iterator[dict[str, Any]]:
    if messages[-1]["role"] == "assistant":
        raise refused("messages", "end with the assistant's, which is not continued; a user's is needed")
    for i, message in enumerate(messages):
        content, at = message["content"], f"messages[{i}].content"
        if isinstance(content, str):
            yield {"role": message["role"], "content": content}
        elif message["role"] == "user":
            yield from _asked(content, at)
        else:
            yield _said(content, at)


def _asked(blocks: Sequence[Values], at: str) -> Iterator[dict[str, Any]]:
    """A user's blocks: results of tools are messages of their own, in front of the text."""
    texts = []
    for i, block in enumerate(blocks):
        if block["type"] == "tool_result":
            yield _result(block, f"{at}[{i}]")
        else:
            texts.append(text_of([_only(block, "text", f"{at}[{i}]")], at))
    if texts or not blocks:
        yield {"role": "user", "content": "\n".join(texts)}


def _result(block: Values, at: str) -> dict[str, Any]:
    text = text_of(block.get("content", ""), f"{at}.content")
    text = f"Error: {text}" if block.get("is_error") else text
    return {"role": "tool", "tool_call_id": needed(block, "tool_use_id", at), "content": text}


def _said(blocks: Sequence[Values], at: str) -> dict[str, Any]:
    """An assistant's blocks as one message; thoughts that are not readable are left out."""
    texts, thoughts, calls = [], [], []
    for i, block in enumerate(blocks):
        here = f"{at}[{i}]"
        if block["type"] == "thinking":
            thoughts.append(needed(block, "thinking", here))
        elif block["type"] == "tool_use":
            calls.append(_call(block, here))
        elif block["type"] != "redacted_thinking":
            texts.append(text_of([_only(block, "text", here)], at))
    found: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    found |= {"reasoning_content": "".join(thoughts)} if thoughts else {}
    return found | ({"tool_calls": calls} if calls else {})


def _call(block: Values, at: str) -> dict[str, Any]:
    function = {"name": needed(block, "name", at), "arguments": json.dumps(block.get("input", {}))}
    return {"id": needed(block, "id", at), "type": "function", "function": function}


def _only(block: Values, kind: str, at: str) -> Values:
    """The block, if it is of a kind that is read here."""
    if block["type"] != kind:
        raise refused(f"{at}.type", f"is {json.dumps(block['type'])}, which is not read here")
    return {**block, "text": needed(block, "text", at)}


def _tools(v: Values) -> dict[str, Any]:
    choice = v.get("tool_choice", {})
    found: dict[str, Any] = {}
    if v.get("tools"):
        found["tools"] = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(v["tools"])]
    if choice:
        found["tool_choice"] = _choice(choice, v)
    if choice.get("disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False
    return found


def _tool(tool: Values, at: str) -> dict[str, Any]:
    if tool.get("type", "custom") != "custom":
        raise refused(f"{at}.type", f"is {json.dumps(tool['type'])}, only tools of the client are called")
    function = {"name": tool["name"], "parameters": needed(tool, "input_schema", at)}
    function |= {"description": tool["description"]} if "description" in tool else {}
    return {"type": "function", "function": function}


def _choice(choice: Values, v: Values) -> Any:
    kind = choice["type"]
    if kind != "tool":
        return {"auto": "auto", "any": "required", "none": "none"}[kind]
    name = needed(choice, "name", "tool_choice")
    if name not in {tool["name"] for tool in v.get("tools", ())}:
        raise refused("tool_choice.name", f"is {json.dumps(name)}, which is no name in tools")
    return {"type": "function", "function": {"name": name}}


def _thinking(v: Values) -> dict[str, Any]:
    """Whether the template has the model think, and how long; nothing is said of it if the client does not."""
    thinking = v.get("thinking")
    if thinking is None or thinking["type"] == "adaptive":
        return {}
    is_on = thinking["type"] == "enabled"
    template = {"enable_thinking": is_on, "thinking": is_on} | v.get("chat_template_kwargs", {})
    found: dict[str, Any] = {"chat_template_kwargs": template}
    if is_on:
        found["reasoning_budget_tokens"] = needed(thinking, "budget_tokens", "thinking")
    return found


def _format(v: Values) -> dict[str, Any]:
    wanted = v.get("output_config", {}).get("format")
    if wanted is None:
        return {}
    schema = {"name": "answer", "schema": wanted["schema"]}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
