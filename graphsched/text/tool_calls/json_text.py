"""JSON that is still being written: where values end, and the members of an object so far."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SPACE: Final = " \t\r\n"


@dataclass(frozen=True)
class Member:
    """A member of an object: its value is text[start:end]; end is None while it is being written."""

    key: str
    start: int
    end: int | None


def skipped(text: str, at: int, also: str = "") -> int:
    """The first place from `at` on without white space, and without what else is named."""
    while at < len(text) and text[at] in _SPACE + also:
        at += 1
    return at


def value_end(text: str, start: int) -> int | None:
    """The place behind a value that begins at `start`; None if it has not ended."""
    if start >= len(text):
        return None
    if text[start] == '"':
        return string_end(text, start)
    if text[start] not in "{[":
        return next((i for i in range(start, len(text)) if text[i] in ",]}" + _SPACE), None)
    depth, at = 0, start
    while at < len(text):
        if text[at] == '"':
            end = string_end(text, at)
            if end is None:
                return None
            at = end
            continue
        depth += (text[at] in "{[") - (text[at] in "}]")
        at += 1
        if not depth:
            return at
    return None


def string_end(text: str, start: int) -> int | None:
    """The place behind a text in quotes that begins at `start`; None if it has not ended."""
    at = start + 1
    while at < len(text):
        if text[at] == "\\":
            at += 1
        elif text[at] == text[start]:
            return at + 1
        at += 1
    return None


def members(text: str, start: int) -> Iterator[Member]:
    """The members of the object that begins at `start`, as far as their values have begun."""
    at = skipped(text, start + 1)
    while at < len(text) and text[at] == '"':
        end = string_end(text, at)
        colon = len(text) if end is None else skipped(text, end)
        value = skipped(text, colon + 1)
        if end is None or value >= len(text) or text[colon] != ":":
            return
        key = _decoded(text[at:end])
        behind = value_end(text, value)
        yield Member(key, value, behind)
        if behind is None:
            return
        at = skipped(text, behind, ",")


def _decoded(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text.strip('"')
