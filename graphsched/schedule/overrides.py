"""Tensor overrides, -ot REGEX=BUFT: which buffer type the tensors that a pattern finds go to."""

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from graphsched.errors import OptionError
from graphsched.types.devices import HOST


class Override(NamedTuple):
    """A pattern, the device it sends tensors to, and the text as typed."""

    pattern: re.Pattern[str]
    device: str
    text: str


def parse_overrides(values: Sequence[str], devices: Sequence[str]) -> tuple[Override, ...]:
    """The overrides of all -ot arguments in command-line order; `devices` are the buffer types besides the host's."""
    known = {name.lower(): name for name in (HOST, *devices)}
    return tuple(_override(piece.strip(), known) for value in values for piece in _pieces(value))


def _override(text: str, known: dict[str, str]) -> Override:
    pattern, equals, device = text.rpartition("=")
    if not equals:
        raise OptionError(f"-ot {text or 'with nothing'} needs a pattern and a buffer type, as in exps=CPU")
    if not pattern:
        raise OptionError(f"-ot {text} has no pattern in front of the =")
    if device.strip().lower() not in known:
        listed = ", ".join(known.values())
        raise OptionError(f"-ot {text}: no buffer type {device.strip() or 'is named'}; there are {listed}")
    return Override(compiled(pattern, f"-ot {text}"), known[device.strip().lower()], text)


def compiled(pattern: str, where: str) -> re.Pattern[str]:
    """The regular expression; `where` is the flag with its value, for the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sets that a later Python may read otherwise
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as e:
        raise OptionError(f"{where}: the pattern is no regular expression, {e}") from None


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
