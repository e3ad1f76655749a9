"""The parts of an answer as blocks one behind the other: of thoughts, of text, or a tool call."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from graphsched.serve.api.answer_parts import CallArguments, CallBegins, Delta, Text, Thought

Kind = Literal["thoughts", "text", "call"]


@dataclass
class Block:
    """A part of an answer that is of one kind; id and name: of a call. text: arguments, of a call."""

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
    """A block begins."""

    block: Block


@dataclass(frozen=True)
class Grows:
    """More of a block."""

    block: Block
    text: str


@dataclass(frozen=True)
class Ends:
    """A block has ended."""

    block: Block


Change = Begins | Grows | Ends


class Blocks:
    """Sorts parts into blocks. One block is open at a time, another part ends it."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self._open: Block | None = None

    def push(self, parts: Iterable[Delta]) -> Iterator[Change]:
        """What more parts change."""
        for part in parts:
            if isinstance(part, CallBegins):
                yield from self._begin(Block(len(self.all), "call", part.id, part.name))
            else:
                yield from self._more(_kind(part), part.text)

    def _more(self, kind: Kind, text: str) -> Iterator[Change]:
        if not text:
            return
        if self._open is None or self._open.kind != kind:
            yield from self._begin(Block(len(self.all), kind))
        assert self._open is not None
        self._open.pieces.append(text)
        yield Grows(self._open, text)

    def _begin(self, block: Block) -> Iterator[Change]:
        yield from self.finish()
        self._open = block
        self.all.append(block)
        yield Begins(block)

    def finish(self) -> Iterator[Change]:
        """What the end of the answer changes."""
        if self._open is not None:
            yield Ends(self._open)
        self._open = None


def _kind(part: Text | Thought | CallArguments) -> Kind:
    return "text" if isinstance(part, Text) else "thoughts" if isinstance(part, Thought) else "call"
