"""What a program puts on its stream: work, bounds with other streams, and graphs of what lies between bounds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from graphsched.backends.cuda import driver
from graphsched.run.streams import Flag

Put = Callable[[Any], None]  # puts work on a stream


@dataclass(frozen=True, eq=False)
class Bound:
    """Where a stream waits for a flag, or raises one; `word`: the flag's address in page-locked host memory."""

    flag: Flag
    word: int
    is_wait: bool

    def __call__(self, stream: Any) -> None:
        """By a stream memory operation."""
        (driver.await_word if self.is_wait else driver.raise_word)(self.word, stream)


@dataclass(frozen=True, eq=False)
class Entry:
    """What an item queues, in order: the launches of a node, a copy, or a bound; nothing where there is no work."""

    name: str
    puts: tuple[Put, ...] = ()

    @property
    def bound(self) -> Bound | None:
        """The wait or signal that it begins with, if any."""
        first = self.puts[0] if self.puts else None
        return first if isinstance(first, Bound) else None


def between_bounds(puts: Iterable[Put], graph: Callable[[Sequence[Put]], Put]) -> list[Put]:
    """Bounds as they are, and a graph of what lies between each two."""
    out: list[Put] = []
    for is_bound, group in groupby(puts, key=lambda put: isinstance(put, Bound)):
        between = list(group)
        out += between if is_bound else [graph(between)]
    return out
