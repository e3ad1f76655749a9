"""The parts of an answer as passages, one behind the other: Anthropic's content blocks, the items of responses."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from graphsched.text.answer_stream import CallArguments, CallBegins, Delta
from graphsched.text.spoken import Text, Thought

Kind = Literal["thoughts", "text", "call"]


@dataclass
class Passage:
    """Parts of one kind that follow each other. id, name: of a call, whose text is its arguments."""

    index: int
    kind: Kind
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self.pieces)


@dataclass(frozen=True)
class Begins:
    """A passage begins."""

    passage: Passage


@dataclass(frozen=True)
class Grows:
    """More of a passage."""

    passage: Passage
    text: str


@dataclass(frozen=True)
class Ends:
    """A passage has ended."""

    passage: Passage


Change = Begins | Grows | Ends


class Passages:
    """Sorts parts into passages. One passage is open at a time, another part ends it."""

    def __init__(self) -> None:
        self.all: list[Passage] = []
        self._open: Passage | None = None

    def push(self, parts: Iterable[Delta]) -> Iterator[Change]:
        """What more parts change."""
        for part in parts:
            if isinstance(part, CallBegins):
                yield from self._begin(Passage(len(self.all), "call", part.id, part.name))
            else:
                yield from self._more(_kind(part), part.text)

    def _more(self, kind: Kind, text: str) -> Iterator[Change]:
        if not text:
            return
        if self._open is None or self._open.kind != kind:
            yield from self._begin(Passage(len(self.all), kind))
        assert self._open is not None
        self._open.pieces.append(text)
        yield Grows(self._open, text)

    def _begin(self, passage: Passage) -> Iterator[Change]:
        yield from self.finish()
        self._open = passage
        self.all.append(passage)
        yield Begins(passage)

    def finish(self) -> Iterator[Change]:
        """What the end of the answer changes."""
        if self._open is not None:
            yield Ends(self._open)
        self._open = None


def _kind(part: Text | Thought | CallArguments) -> Kind:
    return "text" if isinstance(part, Text) else "thoughts" if isinstance(part, Thought) else "call"
