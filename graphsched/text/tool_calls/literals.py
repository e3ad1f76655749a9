"""Values written as in Python, or with names as keys: texts, numbers, lists and objects."""

import ast
import json
from contextlib import suppress
from typing import Any, Final

from graphsched.text.tool_calls.json_text import skipped, string_end

_CLOSING: Final = {"[": "]", "(": ")", "{": "}"}
_WORDS: Final = {"True": True, "true": True, "False": False, "false": False}
_NONE: Final = ("None", "null")
_MAX_DEPTH: Final = 32


def read_literal(text: str, at: int, quote: str = "", depth: int = 0) -> tuple[Any, int] | None:
    """A value and the place behind it, None if it has not ended, or is none.

    `quote` stands around texts, as ' and " do.
    """
    if at >= len(text) or depth > _MAX_DEPTH:
        return None
    if quote and quote.startswith(text[at : at + len(quote)]):
        end = text.find(quote, at + len(quote))
        return None if end < 0 else (text[at + len(quote) : end], end + len(quote))
    if text[at] in "'\"":
        behind = string_end(text, at)
        return None if behind is None else (_text(text[at:behind]), behind)
    if text[at] in _CLOSING:
        return _many(text, at, quote, depth)
    end = next((i for i in range(at, len(text)) if text[i] in ",]})\n"), -1)
    return None if end <= at else (_word(text[at:end].strip()), end)  # nothing at all is no value


def _many(text: str, at: int, quote: str, depth: int) -> tuple[Any, int] | None:
    """A list, or an object, whose keys may be texts or names."""
    opening, values, keys = text[at], list[Any](), list[str]()
    at = skipped(text, at + 1)
    while at < len(text):
        if text[at] == _CLOSING[opening]:
            return (dict(zip(keys, values, strict=True)) if opening == "{" else values), at + 1
        if opening == "{":
            key = _key(text, at, quote)
            if key is None:
                return None
            keys.append(key[0])
            at = skipped(text, key[1])
        value = read_literal(text, at, quote, depth + 1)
        if value is None:
            return None
        values.append(value[0])
        at = skipped(text, value[1], ",")
    return None


def _key(text: str, at: int, quote: str) -> tuple[str, int] | None:
    """A key and the place behind its colon."""
    if text[at] in "'\"" or (quote and text.startswith(quote, at)):
        found = read_literal(text, at, quote)
        colon = -1 if found is None else text.find(":", found[1])
        return None if found is None or colon < 0 else (str(found[0]), colon + 1)
    colon = text.find(":", at)
    return None if colon < 0 else (text[at:colon].strip(), colon + 1)


def _text(written: str) -> str:
    with suppress(ValueError, SyntaxError):
        return str(ast.literal_eval(written))
    with suppress(ValueError):
        return str(json.loads(written))
    return written[1:-1]


def _word(written: str) -> Any:
    if written in _NONE:
        return None
    if written in _WORDS:
        return _WORDS[written]
    with suppress(ValueError):
        return json.loads(written)
    return written
