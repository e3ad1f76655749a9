"""Reads calls of tools out of a text that is still being written."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from graphsched.text.tool_calls.formats import Format
from graphsched.text.tool_calls.json_text import members, skipped, value_end
from graphsched.text.tool_calls.literals import read_literal

_MAX_DEPTH: Final = 16  # values inside of each other
_NAMES, _ARGUMENTS = ("name", "tool_name", "function"), ("arguments", "parameters")
Tools = Mapping[str, Mapping[str, Any]]  # the schemas of the arguments by the name of the tool


@dataclass(frozen=True)
class Call:
    """A call so far: its arguments as JSON text, of which more is only ever added at the end."""

    name: str
    arguments: str
    is_whole: bool = False


@dataclass(frozen=True)
class Section:
    """The calls of a section, and the place behind its closing mark; None while there is none."""

    calls: tuple[Call, ...]
    end: int | None


def read_section(format: Format, text: str, tools: Tools, *, is_final: bool = False) -> Section:
    """The calls of a text that follows an opening mark; is_final: no more of it comes."""
    found: list[Call] = []
    at = 0
    reader = _READERS[format.style]
    while True:
        at = skipped(text, at, "" if format.style in ("named", "parameters") else ",;[]")
        if format.closing and text.startswith(format.closing, at):
            return Section(tuple(found), at + len(format.closing))
        read = reader(format, text, at, tools)
        if read is None:
            break
        call, behind = read
        found.append(call)
        if behind is None:
            break
        at = behind
    closing = text.find(format.closing, at) if format.closing else -1
    if closing >= 0 and (not found or found[-1].is_whole):  # what stands in front of it is no call
        return Section(tuple(found), closing + len(format.closing))
    return Section(tuple(found), len(text) if is_final else None)


def _object(format: Format, text: str, at: int, tools: Tools) -> tuple[Call, int | None] | None:
    """A call as an object with a name and arguments."""
    if not text.startswith("{", at):
        return None
    name, arguments = "", ""
    is_known = False
    for member in members(text, at):
        value = text[member.start : member.end]
        if member.key in _NAMES and member.end is not None:
            name, is_known = _text(value), True
        elif member.key in _ARGUMENTS:
            arguments = value
    end = value_end(text, at)
    if not is_known or not name:
        return None if end is None else (Call("", "", True), end)
    if end is None:  # of a text of JSON nothing can be told before it ends
        return Call(name, "" if arguments.startswith('"') else arguments), None
    return Call(name, _as_object(arguments), True), end


def _as_object(arguments: str) -> str:
    """Arguments that were written as a text of JSON are the JSON."""
    text = _text(arguments) if arguments.startswith('"') else arguments
    return text.strip() or "{}"


def _text(value: str) -> str:
    with suppress(ValueError, RecursionError):
        found = json.loads(value)
        return found if isinstance(found, str) else value
    return value


def _named(format: Format, text: str, at: int, tools: Tools) -> tuple[Call, int | None] | None:
    """A call with its name in front of the arguments."""
    assert format.head is not None
    head = format.head.search(text, at)
    if head is None:
        return None
    start = skipped(text, head.end())
    end = value_end(text, start)
    if end is None:
        return Call(head["name"].strip(), text[start:]), None
    tail = text.find(format.tail, end) if format.tail else end
    call = Call(head["name"].strip(), text[start:end], True)
    return call, None if tail < 0 else tail + len(format.tail)


def _keyed(format: Format, text: str, at: int, tools: Tools) -> tuple[Call, int | None] | None:
    """A call as an object whose only key is the name."""
    if not text.startswith("{", at):
        return None
    found, end = next(members(text, at), None), value_end(text, at)
    if found is None or not text.startswith("{", found.start):
        return None if end is None else (Call("", "", True), end)
    return Call(found.key, text[found.start : found.end], end is not None), end


def _parameters(format: Format, text: str, at: int, tools: Tools) -> tuple[Call, int | None] | None:
    """A call with marks around each parameter, or literals, of which those are told that are whole."""
    assert format.head is not None
    head = format.head.search(text, at)
    if head is None:
        return None
    name, tail = head["name"].strip(), format.tail or format.closing
    pairs, place = _pairs(format, text, head.end(), _properties(tools.get(name, {})))
    is_whole = text.startswith(tail, place)
    end = place + len(format.tail) if is_whole else None
    if not pairs and not is_whole:
        return Call(name, ""), end
    return Call(name, "{" + ", ".join(pairs) + ("}" if is_whole else ""), is_whole), end


def _properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    found = schema.get("properties", {})
    return found if isinstance(found, Mapping) else {}


def _pairs(
    format: Format, text: str, at: int, about: Mapping[str, Any], depth: int = 0
) -> tuple[list[str], int]:
    """The parameters from a place on that are whole, as members of a JSON object, and the place behind them."""
    assert format.parameter is not None
    found, at = list[str](), skipped(text, at)
    while (match := format.parameter.match(text, at)) is not None:
        if format.style == "literals":
            value = read_literal(text, skipped(text, match.end()), format.quote)
            if value is None:
                break
            found.append(_member(match["key"], _of_type(value[0], about.get(match["key"]))))
            at = skipped(text, value[1], ",")
        else:
            found.append(_pair(format, match.groupdict(), about, depth))
            at = skipped(text, match.end())
    return found, at


def _of_type(value: Any, schema: Any) -> Any:
    """A literal that is a text by its schema, but was written without quotes."""
    is_text = isinstance(schema, Mapping) and schema.get("type") == "string"
    return json.dumps(value) if is_text and not isinstance(value, str) else value


def _member(key: str, value: Any) -> str:
    return f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"


def _pair(format: Format, groups: Mapping[str, str | None], about: Mapping[str, Any], depth: int) -> str:
    key, value = groups["key"] or "", groups.get("whole") or groups["value"] or ""
    said, schema = groups.get("text"), about.get(key, {})
    written = json.dumps(key, ensure_ascii=False)
    if said is None and (inner := _inner(format, value, schema, depth + 1)):
        return f"{written}: {inner}"
    if said == "true" or (said is None and _is_text(schema, value)):
        return _member(key, value)
    return f"{written}: {value.strip()}"


def _inner(format: Format, value: str, schema: Any, depth: int) -> str:
    """The JSON of a value that is itself made of parameters, a list where all of them are named item; else "".

    A text that only looks like that stays one, if its schema says so.
    """
    assert format.parameter is not None
    schema = schema if isinstance(schema, Mapping) else {}
    is_text = schema.get("type") == "string" or depth > _MAX_DEPTH
    if is_text or format.parameter.match(value, skipped(value, 0)) is None:
        return ""
    about = {"item": schema["items"]} if "items" in schema else _properties(schema)
    pairs, _ = _pairs(format, value, 0, about, depth)
    item = '"item": '
    if all(pair.startswith(item) for pair in pairs):
        return "[" + ", ".join(pair.removeprefix(item) for pair in pairs) + "]"
    return "{" + ", ".join(pairs) + "}"


def _is_text(schema: Any, value: str) -> bool:
    """Whether a parameter is a text: by its schema, and without one unless it is JSON."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "string" or (isinstance(schema, Mapping) and "enum" in schema and kind is None):
        return True
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return True
    if isinstance(kind, list) and "string" in kind:
        return not isinstance(found, bool | int | float | list | dict | None.__class__)
    return kind is None and isinstance(found, str)


_READERS: Final = {
    "objects": _object,
    "keyed": _keyed,
    "named": _named,
    "parameters": _parameters,
    "literals": _parameters,
}
