"""OpenAI's messages of a chat: the fields that they have, and the messages as templates take them."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from graphsched.serve.api.failures import refused
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.kinds import AnyObject, Choice, Either, ListOf, Text

MAX_MESSAGES: Final = 10_000
_PART: Final = table(Field("type", Text(), required=True), Field("text", Text()), Field("refusal", Text()))
_CONTENT: Final = Either((Text(), ListOf(_PART)))
_FUNCTION: Final = table(
    Field("name", Text(), required=True), Field("arguments", Either((Text(), AnyObject())))
)
_CALL: Final = table(
    Field("id", Text()), Field("type", Choice(("function",))), Field("function", _FUNCTION, required=True)
)
_ROLES: Final = Choice(("system", "developer", "user", "assistant", "tool", "function"))
MESSAGE: Final = table(
    Field("role", _ROLES, required=True),
    Field("content", _CONTENT),
    Field("name", Text()),
    Field("reasoning_content", Text()),
    Field("tool_calls", ListOf(_CALL)),
    Field("tool_call_id", Text()),
)
MESSAGES: Final = Field("messages", ListOf(MESSAGE, MAX_MESSAGES, 1), required=True, help="the conversation")


def plain_messages(given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages as templates take them. Failure for parts that are no text, and messages that say nothing."""
    return [_plain(message, f"messages[{i}]") for i, message in enumerate(given)]


def _plain(message: Mapping[str, Any], at: str) -> dict[str, Any]:
    role = {"developer": "system", "function": "tool"}.get(message["role"], message["role"])
    calls = message.get("tool_calls", ())
    if "content" not in message and not calls and "reasoning_content" not in message:
        raise refused(f"{at}.content", "is missing")
    more = {key: message[key] for key in ("name", "reasoning_content", "tool_call_id") if key in message}
    found = {"role": role, "content": text_of(message.get("content", ""), f"{at}.content")} | more
    return found | ({"tool_calls": [_call(call) for call in calls]} if calls else {})


def text_of(content: str | Sequence[Mapping[str, Any]], at: str) -> str:
    """The text of a content, its parts joined. Failure for parts that are no text."""
    if isinstance(content, str):
        return content
    for i, part in enumerate(content):
        if part["type"] not in ("text", "refusal"):
            raise refused(f"{at}[{i}].type", f"is {json.dumps(part['type'])}, only text is read")
    return "\n".join(part.get("text", part.get("refusal", "")) for part in content)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as an object, if they are one."""
    arguments = call["function"].get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments)
    function = {"name": call["function"]["name"], "arguments": arguments}
    return {"id": call.get("id", ""), "type": "function", "function": function}
