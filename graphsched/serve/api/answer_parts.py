"""What an answer consists of, and what takes it apart while it comes."""

from dataclasses import dataclass

from graphsched.text.answers import Marks


@dataclass(frozen=True)
class Thought:
    """More of the thoughts."""

    text: str


@dataclass(frozen=True)
class Text:
    """More of the text."""

    text: str


@dataclass(frozen=True)
class CallBegins:
    """A tool call begins."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class CallArguments:
    """More of a tool call's arguments, as JSON text."""

    index: int
    text: str


Delta = Thought | Text | CallBegins | CallArguments


class AnswerStream:
    """Takes an answer apart while it comes: thoughts, by the marks around them, and text.

    in_thoughts: the prompt has opened them. White space around thoughts belongs to the marks.
    """

    def __init__(self, marks: Marks, *, in_thoughts: bool = False) -> None:
        self._opening, self._closing = marks.opening.strip(), marks.closing.strip()
        self._inside, self._left, self._starts = in_thoughts, "", in_thoughts

    def push(self, text: str) -> list[Delta]:
        """The parts that more text makes; what may be a mark is held back."""
        self._left += text
        found: list[Delta] = []
        while (mark := self._closing if self._inside else self._opening) and mark in self._left:
            before, _, self._left = self._left.partition(mark)
            found += self._said(before.rstrip() if self._inside else before)
            self._inside, self._starts = not self._inside, True
        held = self._held(mark)
        said, self._left = self._left[: len(self._left) - held], self._left[len(self._left) - held :]
        return found + self._said(said)

    def _held(self, mark: str) -> int:
        """How many characters at the end may be part of a mark, or white space in front of it."""
        left = self._left
        part = next((n for n in range(min(len(mark), len(left)), 0, -1) if mark.startswith(left[-n:])), 0)
        before = left[: len(left) - part]
        return part + (len(before) - len(before.rstrip()) if self._inside else 0)

    def _said(self, text: str) -> list[Delta]:
        text = text.lstrip() if self._starts else text
        if not text:
            return []
        self._starts = False
        return [Thought(text) if self._inside else Text(text)]

    def finish(self) -> list[Delta]:
        """The parts that are left."""
        left, self._left = self._left, ""
        return self._said(left.rstrip() if self._inside else left)
