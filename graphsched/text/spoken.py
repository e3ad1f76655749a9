"""The parts of an answer that are spoken: thoughts and text, without the white space around them."""

from dataclasses import dataclass
from typing import Final, Literal

_SPACE: Final = " \t\r\n"
Kind = Literal["thought", "text"]


@dataclass(frozen=True)
class Thought:
    """More of the thoughts."""

    text: str


@dataclass(frozen=True)
class Text:
    """More of the text."""

    text: str


class Spoken:
    """Tells parts as they come. White space in front of a part and behind it is left out, once there are several.

    is_split: whether there are. An answer of one part stays as it was said.
    """

    def __init__(self, *, is_split: bool = False) -> None:
        self.is_split = is_split
        self._is_begun = False  # this part has more than white space
        self._space = ""

    def begin(self) -> None:
        """Another part begins."""
        self._space, self._is_begun, self.is_split = "", False, True

    def more(self, kind: Kind, text: str) -> list[Thought | Text]:
        """What is certain of a part when there is more of it."""
        whole = self._space + text
        if self.is_split and not self._is_begun:
            whole = whole.lstrip(_SPACE)
        told = whole.rstrip(_SPACE)
        self._space = whole[len(told) :]
        self._is_begun = self._is_begun or bool(told)
        if not told:
            return []
        return [Thought(told) if kind == "thought" else Text(told)]

    def finish(self) -> list[Thought | Text]:
        """What is left at the end."""
        space, self._space = self._space, ""
        return [Text(space)] if space and not self.is_split else []
