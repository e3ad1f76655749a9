"""Flags of other engines' programs: ours under another name, without effect here, or refused with a reason."""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

import click

from graphsched.cli.foreign_flags import REFUSED, TAKEN, UNUSED

_SWITCHED: Final = re.compile(r"(0|1|on|off|auto|true|false|enabled|disabled)(,(0|1|on|off|auto))*")
_OFF: Final = ("0", "off", "false", "disabled")


class Kind(Enum):
    """What becomes of a flag that a command does not have."""

    TAKEN = "taken"
    UNUSED = "without effect"
    REFUSED = "refused"


@dataclass(frozen=True)
class Foreign:
    """A flag of another program, or of another command.

    values: names of the values that it takes, none for a switch; [NAME] may be left out. words: our flag that it means,
    and perhaps its value. why: the reason for which it is refused. option: the other command's own one.
    """

    names: tuple[str, ...]
    kind: Kind
    values: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    why: str = ""
    option: click.Option | None = None

    def consume(self, rest: deque[str]) -> None:
        """Takes its values off the line."""
        if not self.values:
            self.switched(None, rest)
        for name in self.values:
            if rest and not (name.startswith("[") and rest[0].startswith("-")):
                rest.popleft()

    def switched(self, value: str | None, rest: deque[str]) -> bool:
        """Whether a switch is on, by a value behind its =, or one that follows and is taken off the line."""
        if value is None and rest and _SWITCHED.fullmatch(rest[0]):
            value = rest.popleft()
        return value not in _OFF


@cache
def table() -> Mapping[str, Foreign]:
    """Every flag of other engines by each of its names."""
    return {name: flag for flag in _flags() for name in flag.names}


def _flags() -> Iterator[Foreign]:
    for line in _lines(TAKEN):
        flag, _, ours = line.partition(" = ")
        yield _flag(flag, Kind.TAKEN, words=tuple(ours.split()))
    for lines in UNUSED.values():
        yield from (_flag(line, Kind.UNUSED) for line in _lines(lines))
    for why, lines in REFUSED.items():
        yield from (_flag(line, Kind.REFUSED, why=why) for line in _lines(lines))


def _lines(text: str) -> Iterator[str]:
    return filter(None, map(str.strip, text.splitlines()))


def _flag(line: str, kind: Kind, words: tuple[str, ...] = (), why: str = "") -> Foreign:
    """The flag of a line such as `-np --parallel N`."""
    parts = line.split()
    names = tuple(part for part in parts if part.startswith("-"))
    return Foreign(names, kind, tuple(part for part in parts if not part.startswith("-")), words, why)
