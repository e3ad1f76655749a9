"""Flags as llama.cpp's users write them: -ub 5, -ngl 100, --ctx_size 512; others are reported whole."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:  # not generic before click 8.2
    ParamType = click.ParamType

# Flags of llama.cpp and ik_llama.cpp that are planned: known by name, so that a typing error in one is found.
LATER: Final = ("-rtr",)
_CLOSE: Final = 0.6


class Command(click.Command):
    """A command that takes several letters behind one dash for one flag, never for several."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = (p for p in self.get_params(ctx) if isinstance(p, click.Option))
        known = {name: p for p in options for name in (*p.opts, *p.secondary_opts)}
        return super().parse_args(ctx, args if ctx.resilient_parsing else list(separated(args, known)))


def separated(args: Iterable[str], known: Mapping[str, click.Option]) -> Iterator[str]:
    """The arguments with every flag known and apart from its value.

    click would take an unknown -nlg for -n with the value lg, and -t4 for -t 4, which llama.cpp does not accept.
    """
    rest = iter(args)
    for arg in rest:
        if arg == "--":
            yield from (arg, *rest)
        elif len(arg) < 2 or not arg.startswith("-"):
            yield arg
        else:
            yield from _flag(arg, rest, known)


def _flag(arg: str, rest: Iterator[str], known: Mapping[str, click.Option]) -> Iterator[str]:
    name, has_value, value = arg.partition("=")
    if name.startswith("--"):
        name = name.replace("_", "-")
    if name not in known:
        later = LATER if "-ub" in known else ()
        is_later = name in later
        raise click.UsageError(
            f"{name} is not in this version yet"
            if is_later
            else no_such("option", name, (*_own(name, known), *later))
        )
    yield name
    if known[name].is_flag or known[name].count:
        if has_value:
            raise click.UsageError(f"{name} takes no value")
    elif has_value:
        yield value
    elif (following := next(rest, None)) is not None:
        yield following
    else:
        raise click.UsageError(f"{name} needs a value")


def no_such(what: str, name: str, candidates: Iterable[str]) -> str:
    """The sentence for an unknown name, with the likeliest of the candidates."""
    scored = [(_similarity(name, c), c) for c in dict.fromkeys(candidates)]
    best = max(scored, key=lambda pair: pair[0], default=(0.0, ""))
    return f"no such {what} {name}" + (f"; did you mean {best[1]}?" if best[0] >= _CLOSE else "")


def _own(name: str, known: Mapping[str, click.Option]) -> Iterator[str]:
    for flag, option in known.items():
        is_attached = flag == name[:2] and not option.is_flag and name[2:].lstrip("+-").isdigit()
        yield f"{flag} {name[2:]}" if is_attached else flag


def _similarity(a: str, b: str) -> float:
    a, b = a.lstrip("-"), b.lstrip("-")
    if sorted(a) == sorted(b.replace(" ", "")):  # swapped letters, a missing space
        return 1.0
    if len(b) == 1:  # in common with half of all words
        return 0.0
    if len(b) > 2 and (a.startswith(b) or b.startswith(a)):
        return 0.9
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


class Number(ParamType):
    """An integer or a float, from `low` up; `also` are values below it."""

    def __init__(self, kind: type[int] | type[float], low: float | None = None, also: str = "") -> None:
        self.kind, self.low, self.also = kind, low, also
        self.name = "N" if kind is int else "F"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float:
        try:
            number = self.kind(value)
        except (ValueError, OverflowError):
            self.fail(f"is {value or 'empty'}, {self.needed} is needed", param, ctx)
        if self.low is not None and number < self.low and str(number) != self.also.split(" ")[0]:
            self.fail(f"is {value}, {self.needed} is needed", param, ctx)
        return number

    @property
    def needed(self) -> str:
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
        if value not in self.words:
            self.fail(f"is {value or 'empty'}, one of {', '.join(self.words)} is needed", param, ctx)
        return str(value)
