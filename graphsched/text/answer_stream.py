"""An answer while it is written: thoughts, text and calls of tools, as soon as each part of them is certain."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from graphsched.text.answers import WRAPPERS, Marks
from graphsched.text.spoken import Spoken, Text, Thought
from graphsched.text.tool_calls.formats import Format
from graphsched.text.tool_calls.reading import Call, Tools, read_section
from graphsched.text.unread import Unread

__all__ = ["AnswerStream", "CallArguments", "CallBegins", "Delta", "Text", "Thought"]


@dataclass(frozen=True)
class CallBegins:
    """A call of a tool begins, the index-th of the answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of a call's arguments, as JSON text."""

    index: int
    text: str


Delta = Thought | Text | CallBegins | CallArguments
Mode = Literal["thought", "text", "calls"]
Step = tuple[list[Delta], bool]  # what was found, and whether there may be more in what is left


def new_id() -> str:
    """An id for a call: nine letters and digits, which Mistral's templates ask for."""
    return secrets.token_hex(5)[:9]


class CallsSoFar:
    """Calls that were told, and what is told of them next."""

    def __init__(self, make_id: Callable[[], str]) -> None:
        self._make_id = make_id
        self._n = 0  # calls of sections that have ended
        self._told: list[str] = []  # arguments of the calls of this section, as far as they were told

    @property
    def n(self) -> int:
        """Calls that were told."""
        return self._n + len(self._told)

    def more(self, calls: Sequence[Call]) -> Iterator[Delta]:
        """What is new of the calls of a section."""
        for i, call in enumerate(c for c in calls if c.name):
            index = self._n + i
            if i == len(self._told):
                self._told.append("")
                yield CallBegins(index, self._make_id(), call.name)
            new = call.arguments[len(self._told[i]) :]
            if new and call.arguments.startswith(self._told[i]):
                self._told[i] = call.arguments
                yield CallArguments(index, new)

    def close(self) -> None:
        """The section has ended."""
        self._n += len(self._told)
        self._told = []


class AnswerStream:
    """Takes an answer apart.

    in_thoughts: the prompt has opened a thought. ends: texts of control tokens that are no part of an answer. tools:
    the schemas of the arguments of the tools that may be called; without any, or a format, everything is text.
    """

    def __init__(
        self,
        marks: Marks,
        format: Format | None = None,
        *,
        in_thoughts: bool = False,
        tools: Tools | None = None,
        ends: Sequence[str] = (),
        make_id: Callable[[], str] = new_id,
    ) -> None:
        self._marks, self._format, self._tools = marks, format, tools or {}
        self._mode: Mode = "thought" if in_thoughts and marks.closing else "text"
        self._spoken, self._unread = Spoken(is_split=in_thoughts), Unread()
        self._ends = tuple(filter(None, ends))
        self._calls = CallsSoFar(make_id)

    def push(self, text: str) -> list[Delta]:
        """The parts that more text makes."""
        self._unread.push(text)
        return list(self._steps(is_final=False))

    def finish(self) -> list[Delta]:
        """The parts that are left at the end."""
        return [*self._steps(is_final=True), *self._spoken.finish()]

    def _steps(self, *, is_final: bool) -> Iterator[Delta]:
        goes_on = True
        while goes_on:
            found, goes_on = self._called(is_final) if self._mode == "calls" else self._said(is_final)
            yield from found

    def _said(self, is_final: bool) -> Step:
        """Text, or a thought, up to the next mark."""
        assert self._mode != "calls"
        marks = tuple(filter(None, self._marks_now()))
        text, mark = self._unread.until(marks, is_final=is_final)
        told = self._spoken.more(self._mode, text)
        if mark:
            self._turn(mark)
        return [*told], bool(mark)

    def _marks_now(self) -> tuple[str, ...]:
        """What may end this part."""
        if self._mode == "thought":
            return self._marks.closing, *self._ends
        wrappers = tuple(mark for pair in WRAPPERS for mark in pair)
        calls = (self._format.opening,) if self._format and self._tools else ()
        return (self._marks.opening.strip(), self._marks.closing.strip(), *calls, *wrappers, *self._ends)

    def _turn(self, mark: str) -> None:
        """What begins behind a mark."""
        if mark in self._ends:
            return
        self._spoken.begin()
        if self._format and mark == self._format.opening and self._tools and self._mode == "text":
            self._mode = "calls"
            self._unread.text = (mark if self._format.is_part else "") + self._unread.text
        elif mark == self._marks.opening.strip():
            self._mode = "thought"
        else:
            self._mode = "text"

    def _called(self, is_final: bool) -> Step:
        assert self._format is not None
        text = self._unread.text
        section = read_section(self._format, text, self._tools, is_final=is_final)
        found = list(self._calls.more(section.calls))
        if section.end is None:
            return found, False
        if is_final and not self._calls.n and section.end == len(text):
            found.append(Text(text if self._format.is_part else self._format.opening + text))
        self._unread.take(section.end)
        self._mode = "text"
        self._calls.close()
        return found, section.end < len(text)
