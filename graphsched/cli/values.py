"""Types of the values of flags that are no options; and lists and ranges of values as llama-bench takes them."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # not generic before click 8.2
    ParamType = click.ParamType

MOST: Final = 10_000  # values that a range may have
_RANGE: Final = re.compile(r"(\d+)-(\d+)(?:([+*])(\d+))?")


class Number(ParamType):
    """An integer or a float, from `low` up; `also` are values below it."""

    def __init__(self, kind: type[int] | type[float], low: float | None = None, also: str = "") -> None:
        self.kind, self.low, self.also = kind, low, also
        self.name = "N" if kind is int else "F"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        """The number; click.BadParameter for text that is none or is out of range."""
        try:
            number = self.kind(value)
        except (ValueError, OverflowError):
            self.fail(f"is {value or 'empty'}, {self.needed} is needed", param, ctx)
        if self.low is not None and number < self.low and str(number) not in self.also.split():
            self.fail(f"is {value}, {self.needed} is needed", param, ctx)
        return number

    @property
    def needed(self) -> str:
        """The range in words, for help and errors."""
        what = "an integer" if self.kind is int else "a number"
        return (
            what
            + (f" from {self.low} up" if self.low is not None else "")
            + (self.also and f" or {self.also}")
        )


class OneOf(ParamType):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words, self.name = words, "|".join(words)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word; click.BadParameter for another."""
        if value not in self.words:
            self.fail(f"is {value or 'empty'}, one of {', '.join(self.words)} is needed", param, ctx)
        return str(value)


class FileName(ParamType):
    """A path; whether there is such a file is for the loader to say."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, not checked."""
        return Path(value)


class Word(ParamType):
    """A text that options read."""

    def __init__(self, name: str) -> None:
        self.name = name


class Switch(ParamType):
    """0 or 1, off or on."""

    name = "0|1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """True for 1 and on, False for 0 and off."""
        return value in ("1", "on", True)  # the flag has checked that it is one of them


class Pair(ParamType):
    """Two integers from 1 up: 512,128."""

    name = "N,N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Both integers; click.BadParameter for other text."""
        found = re.fullmatch(r"(\d+),(\d+)", value)
        if found is None or "0" in (found[1], found[2]):
            self.fail(f"is {value or 'empty'}, two integers from 1 up such as 512,128 are needed", param, ctx)
        return int(found[1]), int(found[2])


class ListOf(ParamType):
    """Values apart by commas; integers also as the ranges first-last, first-last+step and first-last*factor."""

    def __init__(self, of: ParamType, has_ranges: bool = False) -> None:
        self.of, self.name = of, f"{of.name},..."
        self.has_ranges = has_ranges or isinstance(of, Number)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """The values, ranges written out; click.BadParameter for the first bad one."""
        pieces = [p for piece in value.split(",") for p in self._values(piece, param, ctx)]
        return tuple(self.of.convert(piece, param, ctx) for piece in pieces)

    def _values(self, piece: str, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        found = _RANGE.fullmatch(piece) if self.has_ranges else None
        if found is None:
            return [piece]
        value, last, step = int(found[1]), int(found[2]), int(found[4] or 1)
        if last < value:
            self.fail(f"is {piece}, a range that ends before it begins", param, ctx)
        if step < 1 or (found[3] == "*" and (step < 2 or value < 1)):
            self.fail(f"is {piece}, a range that never ends", param, ctx)
        values: list[str] = []
        while value <= last:
            values.append(str(value))
            value = value * step if found[3] == "*" else value + step
            if len(values) > MOST:
                self.fail(f"is {piece}, a range of more than {MOST} values", param, ctx)
        return values


class Alternatives(ParamType):
    """Texts apart by semicolons, as commas belong to the texts themselves; an empty one is none."""

    def __init__(self, of: ParamType) -> None:
        self.name = f"{of.name};..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The texts without spaces around them."""
        return tuple(piece.strip() for piece in value.split(";"))
