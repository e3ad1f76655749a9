"""Arguments with a count of their effects, so that one without any can be reported."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from graphsched.gguf.format import printable, shown

_FIRST: Final = 3  # names that a sentence shows


@dataclass(frozen=True)
class Given:
    """An argument as typed, how many things it had an effect on, and their bytes where it is about tensors.

    why: the reason if it had no effect, as far as it is known.
    """

    what: str
    hits: int
    nbytes: int = 0
    why: str = ""

    def as_json(self) -> dict[str, Any]:
        """The argument and how often it was used, for reports."""
        return {"given": self.what, "hits": self.hits, "bytes": self.nbytes, "why": self.why}

    @property
    def reason(self) -> str:
        """The argument, and why it had no effect."""
        return f"{self.what} ({self.why})" if self.why else self.what


def unused(given: Iterable[Given]) -> str | None:
    """One line that names what had no effect, None if all had."""
    without = [g.reason for g in given if g.hits == 0]
    return f"without effect: {', '.join(map(printable, without))}" if without else None


def named(names: Sequence[str], first: int = _FIRST) -> str:
    """The first names of several, and how many more there are."""
    more = len(names) - first
    return ", ".join(map(shown, names[:first])) + (f" and {more} more" if more > 0 else "")
