"""A text that comes in pieces and is read up to marks; what may be the beginning of a mark waits for the rest of it."""

from collections.abc import Sequence


class Unread:
    """What has come and was not taken yet."""

    def __init__(self) -> None:
        self.text = ""

    def push(self, text: str) -> None:
        """Adds a piece."""
        self.text += text

    def take(self, n: int) -> str:
        """Takes the first n characters."""
        taken, self.text = self.text[:n], self.text[n:]
        return taken

    def until(self, marks: Sequence[str], *, is_final: bool = False) -> tuple[str, str]:
        """Takes the text in front of the first mark, and the mark: the longest of those that begin there.

        Without one it takes what cannot be the beginning of a mark, all if nothing more comes, and "".
        """
        places = [(at, -len(mark), mark) for mark in marks if (at := self.text.find(mark)) >= 0]
        if not places:
            return self.take(len(self.text) - (0 if is_final else _begun(self.text, marks))), ""
        at, _, mark = min(places)
        return self.take(at), self.take(len(mark))


def _begun(text: str, marks: Sequence[str]) -> int:
    """Characters at the end of a text with which a mark may begin."""
    longest = max((len(mark) for mark in marks), default=1) - 1
    for n in range(min(longest, len(text)), 0, -1):
        if any(mark.startswith(text[-n:]) for mark in marks):
            return n
    return 0
