"""How an answer to a chat is read: by the marks of thoughts and the calls of tools that the model's template names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from graphsched.serve.api.structure import Tools
from graphsched.text.answer_stream import AnswerStream, Delta
from graphsched.text.answers import Marks
from graphsched.text.channel_stream import ChannelStream
from graphsched.text.dialect import Dialect
from graphsched.text.spoken import Text
from graphsched.text.tokenizer import Tokenizer
from graphsched.text.tool_calls.formats import Format

NO_MARKS: Final = Marks()
_CHANNEL: Final = "<|channel|>"


class Parts(Protocol):
    """What takes an answer apart while it comes."""

    def push(self, text: str) -> list[Delta]:
        """The parts that more text makes."""

    def finish(self) -> list[Delta]:
        """The parts that are left at the end."""


class Unsplit:
    """An answer that is all text, whatever it looks like."""

    def push(self, text: str) -> list[Delta]:
        """The text."""
        return [Text(text)] if text else []

    def finish(self) -> list[Delta]:
        """Nothing."""
        return []


@dataclass(frozen=True)
class Reading:
    """What an answer is taken apart by; splits: thoughts are apart from the text. tools: schemas by name."""

    marks: Marks = NO_MARKS
    format: Format | None = None
    tools: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    in_thoughts: bool = False
    splits: bool = True
    ends: tuple[str, ...] = ()

    def parts(self) -> Parts:
        """A stream for one answer."""
        if not self.splits and not self.tools:
            return Unsplit()
        if self.marks.has_channels:
            return ChannelStream()
        marks, in_thoughts = (self.marks, self.in_thoughts) if self.splits else (NO_MARKS, False)
        return AnswerStream(marks, self.format, in_thoughts=in_thoughts, tools=self.tools, ends=self.ends)

    def texts(self) -> Iterator[str]:
        """The marks that are looked for."""
        if self.splits:
            yield from (self.marks.opening, self.marks.closing)
        if self.marks.has_channels and (self.splits or self.tools):
            yield _CHANNEL
        if self.tools and self.format is not None:
            yield from (self.format.opening, self.format.write, self.format.between, self.format.closing)


def reading_of(
    dialect: Dialect, tokenizer: Tokenizer, tools: Tools | None, *, in_thoughts: bool, splits: bool
) -> Reading:
    """How answers to a prompt are read; in_thoughts: it ends inside of them."""
    ends = tuple(tokenizer.piece(t, special=True).decode("utf-8", "replace") for t in sorted(tokenizer.eog))
    schemas = tools.schemas if tools is not None else {}
    return Reading(dialect.marks, dialect.format if tools else None, schemas, in_thoughts, splits, ends)


def has_control_tokens(reading: Reading, tokenizer: Tokenizer) -> bool:
    """Whether marks are control tokens, whose texts are otherwise no part of an answer."""
    tokens = (
        t for text in reading.texts() for t in tokenizer.encode(text, add_special=False, parse_special=True)
    )
    return any(not tokenizer.piece(token) for token in tokens)
