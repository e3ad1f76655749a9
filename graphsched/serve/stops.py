"""Texts that end an answer, wherever tokens begin: what may be the beginning of one is held back."""

from collections.abc import Sequence

from graphsched.text.unread import Unread


class Stops:
    """Cuts a text that comes in pieces at the first of some texts, which is then in `found`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts, self._held = tuple(texts), Unread()
        self.found = ""

    def push(self, text: str) -> str:
        """What is certain to come before a stop, of what was held back and a further piece."""
        self._held.push(text)
        certain, found = self._held.until(self._texts)
        if found:
            self.found = found
            self.flush()
        return certain

    def flush(self) -> str:
        """What was held back, now that nothing more comes."""
        return self._held.take(len(self._held.text))
