"""Texts that end an answer, wherever tokens begin: what may be the beginning of one is held back."""

from collections.abc import Sequence


class Stops:
    """Cuts a text that comes in pieces at the first of some texts, which is then in `found`."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts, self._held = tuple(texts), ""
        self.found = ""

    def push(self, text: str) -> str:
        """What is certain to come before a stop, of what was held back and a further piece."""
        if not self._texts:
            return text
        held = self._held + text
        ends = [(held.index(stop), -len(stop), stop) for stop in self._texts if stop in held]
        if ends:
            at, _, self.found = min(ends)
            self._held = ""
            return held[:at]
        keep = max(_overlap(held, stop) for stop in self._texts)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def flush(self) -> str:
        """What was held back, now that nothing more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text with which a stop begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
