"""A flag of the command line, made from an option's declaration: for one value, or for lists of them."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from graphsched.cli.toggle import Toggle
from graphsched.cli.values import Alternatives, ListOf, Word
from graphsched.option import Number, Option, Words

Function = Callable[..., Any]


def add(command: Function, field: str, option: Option, *, lists: bool = False) -> Function:
    """A decorator; the command receives the texts that were given, None or () for none: options read them.

    With `lists` the flag takes several values and may be repeated: the same flag, but of a grid.
    """
    of = Word(option.values.metavar)
    given: dict[str, Any] = {"type": of, "multiple": bool(option.many) or lists}
    if isinstance(option.values, Words) and option.values.is_switch:
        given |= {"cls": Toggle, "off": option.off, "words": option.values, "lists": lists}
    if lists:
        is_integer = isinstance(option.values, Number) and option.values.kind is int
        has_commas = bool(option.many) or "," in option.values.metavar
        given["type"] = Alternatives(of) if has_commas else ListOf(of, has_ranges=is_integer)
    return click.option(*option.flags, field, help=option.text, **given)(command)


def add_all(options: Iterable[tuple[str, Option]], command: Function, *, lists: bool = False) -> Function:
    """A decorator that adds all flags, in order."""
    for field, option in reversed(tuple(options)):
        command = add(command, field, option, lists=lists)
    return command


def alternatives(option: Option, given: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    """The single values that lists stand for. Of a flag that may be repeated each occurrence adds to the value."""
    if not option.many:
        return tuple(dict.fromkeys(itertools.chain.from_iterable(given))) or (None,)
    return tuple(tuple(text for text in texts if text) for texts in itertools.product(*given))


def later(option: Option, first: Any, second: Any) -> Any:
    """The value of a flag given twice, in the command's flags and in further ones behind."""
    if option.many == "first":
        return second + first
    if option.many == "last":
        return first + second
    return first if second is None or second == () else second
