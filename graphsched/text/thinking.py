"""`--reasoning-budget N`: thoughts end after so many tokens, as the model is made to write what ends them."""

from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import regex  # type: ignore[import-untyped]
from numpy.typing import NDArray

from graphsched.text.answers import Marks
from graphsched.text.tokenizer import Tokenizer

_TAIL: Final = 64  # characters in which a mark that was just completed lies
_CHANNEL: Final = regex.compile(r"<\|channel\|>\s*analysis[^<]*<\|message\|>")
_CHANNEL_END: Final = regex.compile(r"<\|(?:end|return|call|start)\|>")


class Chooser(Protocol):
    """What chooses tokens."""

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token for logits [vocab]."""

    def accept(self, token: int) -> None:
        """Counts a token of the prompt, or one that was chosen."""


@dataclass(frozen=True)
class Budget:
    """At most `limit` tokens of thoughts, by the marks around them; is_open: the prompt ends inside of thoughts."""

    limit: int
    marks: Marks
    is_open: bool = False


class Thinking:
    """Chooses as another does, but ends thoughts when their tokens are used up."""

    def __init__(self, chooser: Chooser, budget: Budget, tokenizer: Tokenizer) -> None:
        self._chooser, self._tokenizer = chooser, tokenizer
        self._opens, self._closing = _patterns(budget.marks)
        self._ending = tokenizer.encode(
            budget.marks.ending, add_special=False, parse_special=True, continuing=True
        )
        self._left, self._is_open = budget.limit, budget.is_open
        self._forced: deque[int] = deque()
        self._tail = ""

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token of the ending if thoughts have to end, else what the other one chooses."""
        if self._is_open and self._left <= 0 and not self._is_closing():
            self._forced.extend(self._ending)
            self._is_open = False  # what is written now is no thought, and is not counted
        return self._forced[0] if self._forced else self._chooser.sample(logits)

    def _is_closing(self) -> bool:
        """Whether the mark that ends the thoughts has begun by itself."""
        found = self._closing.search(self._tail, partial=True)
        return found is not None and found.end() > found.start()  # nothing at all is a part of every mark

    def accept(self, token: int) -> None:
        """Counts a chosen token."""
        self._chooser.accept(token)
        if self._forced:
            self._forced.popleft()
            self._tail = ""
            return
        piece = self._tokenizer.piece(token, special=True).decode("utf-8", "replace")
        self._tail = (self._tail + piece)[-_TAIL - len(piece) :]
        self._left -= self._is_open and not self._is_closing()
        mark = self._closing if self._is_open else self._opens
        if mark.search(self._tail):
            self._is_open, self._tail = not self._is_open, ""


def _patterns(marks: Marks) -> tuple[regex.Pattern[str], regex.Pattern[str]]:
    """What begins thoughts, and what ends them."""
    if marks.has_channels:
        return _CHANNEL, _CHANNEL_END
    opening, closing = (regex.compile(regex.escape(text.strip())) for text in (marks.opening, marks.closing))
    return opening, closing
