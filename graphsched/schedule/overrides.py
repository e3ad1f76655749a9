"""Tensor overrides, -ot REGEX=BUFT: tensors whose names match go to a buffer type."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from graphsched.errors import OptionError
from graphsched.option import texts
from graphsched.schedule.pattern import compiled
from graphsched.types.devices import HOST

LONGEST_NAME: Final = 256  # names come from a file; a pattern with nested repeats takes long on a long one


class Override(NamedTuple):
    """A pattern, the device it sends tensors to, as typed, and the whole text as typed."""

    pattern: re.Pattern[str]
    device: str
    text: str

    def finds(self, name: str) -> bool:
        """Whether the pattern is somewhere in a tensor's name."""
        return self.pattern.search(name[:LONGEST_NAME]) is not None


def parse_overrides(given: str | Iterable[str | Override]) -> tuple[Override, ...]:
    """The overrides of `-ot` texts, in their order; what is one already stays. OptionError for a bad text."""
    found: list[Override] = []
    for item in texts(given):
        if isinstance(item, Override):
            found.append(item)
        elif isinstance(item, str):
            found += [_override(piece.strip()) for piece in _pieces(item)]
        else:
            raise OptionError(f"has {item!r}, texts such as exps=CPU are needed")
    return tuple(found)


def typed(overrides: Iterable[Override]) -> str:
    """The overrides as one `-ot` text."""
    return ",".join(override.text for override in overrides)


def on_devices(overrides: Iterable[Override], devices: Iterable[str]) -> tuple[Override, ...]:
    """The overrides with the names of this session's devices. OptionError for a buffer type that is none of them."""
    known = {name.lower(): name for name in (HOST, *devices)}
    found = []
    for override in overrides:
        if (device := override.device.lower()) not in known:
            what = f"no buffer type {override.device or 'is named'}; there are {', '.join(known.values())}"
            raise OptionError(f"{override.text}: {what}", "overrides")
        found.append(override._replace(device=known[device]))
    return tuple(found)


def _override(text: str) -> Override:
    pattern, equals, device = text.rpartition("=")
    if not equals:
        raise OptionError(f"{text or 'with nothing'} needs a pattern and a buffer type, as in exps=CPU")
    if not pattern:
        raise OptionError(f"{text} has no pattern in front of the =")
    return Override(compiled(pattern, text), device.strip(), text)


def _pieces(value: str) -> Iterator[str]:
    """The parts between commas that follow a complete =BUFT; other commas belong to a pattern, as in {1,3}."""
    start = 0
    for comma in _outer_commas(value):
        if re.search(r"=\s*[\w:.\[\]-]*\s*$", value[start:comma]):
            yield value[start:comma]
            start = comma + 1
    yield value[start:]


def _outer_commas(value: str) -> Iterator[int]:
    """Commas outside of (), [] and {}, as a regular expression nests them."""
    depth, in_set, escaped = 0, False, False
    for i, c in enumerate(value):
        if escaped or c == "\\":
            escaped = not escaped
        elif in_set:
            in_set = c != "]"
        elif c == "[":
            in_set = True
        elif c in "({":
            depth += 1
        elif c in ")}":
            depth = max(depth - 1, 0)
        elif c == "," and depth == 0:
            yield i
