"""What an answer consists of. Stands in for graphsched.text.answer_stream."""

from dataclasses import dataclass


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
    """All is text."""

    def push(self, text: str) -> list[Delta]:
        """The parts that more text makes."""
        return [Text(text)] if text else []

    def finish(self) -> list[Delta]:
        """The parts that are left."""
        return []
