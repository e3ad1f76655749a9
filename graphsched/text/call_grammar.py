"""Grammars of calls: what a model may write that has to call tools, or that has begun to."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from graphsched.text.grammar import LAYOUT, Grammar
from graphsched.text.tokenizer import Tokenizer
from graphsched.text.tool_calls.formats import Format
from graphsched.text.tool_calls.reading import Tools

_ANY: Final = {"type": "object"}
_TEXT: Final = {"type": "string"}
_NUMBER: Final = "/[0-9]+/"


def grammar_of(format: Format, tools: Tools, tokenizer: Tokenizer, *, parallel: bool = True) -> Grammar:
    """The grammar of one call, or with `parallel` of several, of these tools, marks included.

    OptionError for schemas that cannot be followed.
    """
    return Grammar.from_lark("\n".join(_Rules(format, tokenizer).lines(tools, parallel)))


class _Rules:
    """Rules in Lark's notation, as llguidance reads it."""

    def __init__(self, format: Format, tokenizer: Tokenizer) -> None:
        self._format, self._tokenizer = format, tokenizer

    def lines(self, tools: Tools, parallel: bool) -> Iterable[str]:
        """All rules."""
        f = self._format
        opening, closing = ("" if f.is_part else f.opening), f.closing
        parallel = parallel and not f.is_alone
        more = f" ({self._text(f.between)} call)*" if parallel else ""
        if f.is_each:
            one = f"{self._text(opening)} call {self._text(closing)}"
            yield f"start: {one}" + (f" ({self._text(chr(10))}? {one})*" if parallel else "")
        else:
            ends = self._text(opening + f.first), self._text(f.last + closing)
            yield f"start: {ends[0]} call{more} {ends[1]}"
        yield "call: " + " | ".join(f"tool_{i}" for i in range(len(tools)))
        for i, (name, schema) in enumerate(tools.items()):
            before, _, after = f.write.replace("{name}", name).partition("{arguments}")
            head = f" {_NUMBER} ".join(map(self._text, before.split("{n}")))
            yield f"tool_{i}: {head} args_{i} {self._text(after)}"
            yield from self._arguments(i, schema)

    def _arguments(self, i: int, schema: Mapping[str, Any]) -> Iterable[str]:
        if self._format.style not in ("parameters", "literals"):
            yield f"args_{i}: %json {_schema(schema or _ANY)}"
            return
        properties, required = schema.get("properties", {}), schema.get("required", ())
        needed = [key in required for key in properties]
        yield from self._sequence(f"args_{i}", f"param_{i}", needed)
        for j, (key, about) in enumerate(properties.items()):
            yield from self._parameter(f"param_{i}_{j}", key, about)

    def _sequence(self, name: str, item: str, needed: Sequence[bool]) -> Iterable[str]:
        """Items in order, what is not needed may be missing, and between two that are there stands a mark.

        NAME_J are the items from the J-th on with nothing in front of them, NAME_J_more those behind another one.
        """
        between, n = self._text(self._format.write_between), len(needed)
        yield f"{name}: {name}_0"
        for j, is_needed in enumerate(needed):
            first, rest = f"{item}_{j} {name}_{j + 1}_more", f"{name}_{j + 1}_more"
            yield f"{name}_{j}: {first}" + ("" if is_needed else f" | {name}_{j + 1}")
            yield f"{name}_{j}_more: " + (
                f"{between} {first}" if is_needed else f"{between} {first} | {rest}"
            )
        yield f'{name}_{n}: ""'
        yield f'{name}_{n}_more: ""'

    def _parameter(self, rule: str, key: str, schema: Any) -> Iterable[str]:
        is_text = not isinstance(schema, Mapping) or schema.get("type", "string") == "string"
        written = self._format.write_parameter.replace("{key}", key).replace("{text}", str(is_text).lower())
        before, _, after = written.partition("{value}")
        quote = self._format.quote
        if is_text and quote:
            before, after = before + quote, quote + after
        if not is_text or (self._format.style == "literals" and not quote):
            yield f"{rule}: {self._text(before)} {rule}_value {self._text(after)}"
            yield f"{rule}_value: %json {_schema(schema if isinstance(schema, Mapping) else _TEXT)}"
        elif "enum" in schema:
            yield f"{rule}: {self._text(before)} {rule}_value {self._text(after)}"
            yield f"{rule}_value: " + " | ".join(self._text(str(v)) for v in schema["enum"])
        else:
            yield from self._free(rule, before, after)

    def _free(self, rule: str, before: str, after: str) -> Iterable[str]:
        """A parameter of any text up to what stands behind it: a control token, or characters."""
        end = after.strip() or after
        if "<[" in (mark := self._text(end)):
            yield f"{rule}: {self._text(before)} {rule}_value {mark} {self._text(after[len(after.rstrip()) :])}"
            yield f"{rule}_value: /(?s:.*)/"
            return
        yield f"{rule}: {self._text(before)} {rule}_value {self._text(after[len(after.rstrip()) :])}"
        yield f"{rule}_value[suffix={json.dumps(end, ensure_ascii=False)}]: /(?s:.*)/"

    def _text(self, text: str) -> str:
        """A text as a sequence of strings and of control tokens, which are no texts."""
        ids = (
            self._tokenizer.encode(text, add_special=False, parse_special=True, continuing=True)
            if text
            else []
        )
        parts, bytes_ = [], b""
        for token in ids:
            piece = self._tokenizer.piece(token)
            bytes_ += piece
            if not piece:
                parts += [_string(bytes_), f"<[{token}]>"]
                bytes_ = b""
        parts.append(_string(bytes_))
        return " ".join(part for part in parts if part != '""') or '""'


def _string(text: bytes) -> str:
    return json.dumps(text.decode("utf-8", "replace"), ensure_ascii=False)


def _schema(schema: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": LAYOUT}, ensure_ascii=False)
