"""Tools in conversations: for templates that know about them, and for those that do not."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from graphsched.text.tool_calls.formats import Format

Message = Mapping[str, Any]
# What a model whose template knows nothing of tools is told; calls are written as most models were taught to.
_TOLD: Final = """You may call functions to help with the user's request. These are the functions, as JSON:
<tools>
{tools}
</tools>

For each call write a JSON object with its name and its arguments between these marks, and nothing behind the last one:
<tool_call>
{{"name": <name>, "arguments": <object with the arguments>}}
</tool_call>"""


def told(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], format: Format) -> list[Message]:
    """The conversation for a template that knows no tools: the system tells of them, calls and results are texts."""
    plain = [_plain(message, format) for message in messages]
    if not tools:
        return plain
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    about = _TOLD.format(tools=lines)
    if plain and plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{about}"}, *plain[1:]]
    return [{"role": "system", "content": about}, *plain]


def _plain(message: Message, format: Format) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    return without_calls(message, format)


def without_calls(message: Message, format: Format) -> Message:
    """A message whose calls are part of its text."""
    calls = message.get("tool_calls", ())
    if not calls:
        return message
    texts = [message.get("content") or "", written(calls, format)]
    return {"role": "assistant", "content": "\n".join(filter(None, texts))}


def written(calls: Sequence[Mapping[str, Any]], format: Format) -> str:
    """Calls as the model would write them."""
    texts = [_written(call["function"], format).replace("{n}", str(i)) for i, call in enumerate(calls)]
    opening = "" if format.is_part else format.opening
    if format.is_each:
        return "\n".join(f"{opening}{text}{format.closing}" for text in texts)
    return f"{opening}{format.first}{format.between.join(texts)}{format.last}{format.closing}"


def _written(function: Mapping[str, Any], format: Format) -> str:
    given = function.get("arguments", {})
    if format.style not in ("parameters", "literals"):
        arguments = _text(given)
    else:
        pairs = (_as_object(given)).items()
        arguments = format.write_between.join(_parameter(key, value, format) for key, value in pairs)
    return format.write.replace("{name}", function["name"]).replace("{arguments}", arguments)


def _parameter(key: str, value: Any, format: Format) -> str:
    is_text = isinstance(value, str)
    text = value if is_text and format.style == "parameters" else json.dumps(value, ensure_ascii=False)
    if is_text and format.quote:
        text = f"{format.quote}{value}{format.quote}"
    pattern = format.write_parameter.replace("{text}", str(is_text).lower())
    return pattern.replace("{key}", key).replace("{value}", text)


def _as_object(arguments: Any) -> Mapping[str, Any]:
    found = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    return found if isinstance(found, Mapping) else {}


def with_texts(messages: Sequence[Message]) -> list[Message]:
    """The conversation with arguments as texts of JSON, which some templates want."""
    return [_with_text(message) if message.get("tool_calls") else message for message in messages]


def _with_text(message: Message) -> Message:
    calls = [
        {**call, "function": {**call["function"], "arguments": _text(call["function"].get("arguments", {}))}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
