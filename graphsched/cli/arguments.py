"""Flags as llama.cpp's users write them: -ub 5, -ngl 100, -fa 1, --ctx_size 512; others are reported whole."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Final

import click

from graphsched.errors import OptionError
from graphsched.option import Words, switch

_CLOSE: Final = 0.6
_OPPOSITE: Final = {"0": "1", "1": "0", "on": "off", "off": "on"}


class Toggle(click.Option):
    """A switch: its name turns it on, a name in `off` turns it off, 0 or 1 behind either says which.

    `words` are what may stand behind it, with `lists` several of them.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        off: Sequence[str] = (),
        words: Words | None = None,
        lists: bool = False,
        **attrs: Any,
    ) -> None:
        super().__init__([*names, *off], **attrs)
        self.off, self.words, self.lists = off, words or switch(), lists

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Names and help text: first the names that switch on, then those that switch off."""
        on = [name for name in self.opts if name not in self.off]
        return ", ".join([*on, *self.off]) + f" [{self.type.name}]", self.help or ""

    def given(self, name: str, value: str) -> str:
        """The value as the switch itself has it, of one that stands behind this name. OptionError if it cannot be."""
        words = value.split(",") if self.lists else [value]
        for word in words:
            try:
                self.words.read(word)
            except OptionError as e:
                raise OptionError(e.what, name) from None
        return ",".join(_OPPOSITE.get(word, word) for word in words) if name in self.off else value


class Command(click.Command):
    """A command that takes several letters behind one dash for one flag, never for several."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses arguments after separating flags from values written without a space."""
        options = (p for p in self.get_params(ctx) if isinstance(p, click.Option))
        known = {name: p for p in options for name in (*p.opts, *p.secondary_opts)}
        return super().parse_args(ctx, args if ctx.resilient_parsing else list(separated(args, known)))


def separated(args: Iterable[str], known: Mapping[str, click.Option]) -> Iterator[str]:
    """The arguments with every flag known and apart from its value.

    click would take an unknown -nlg for -n with the value lg, and -t4 for -t 4, which llama.cpp does not accept.
    """
    rest = deque(args)
    while rest:
        arg = rest.popleft()
        if arg == "--":
            yield from (arg, *rest)
            return
        if len(arg) < 2 or not arg.startswith("-"):
            yield arg
        else:
            yield from _flag(arg, rest, known)


def _flag(arg: str, rest: deque[str], known: Mapping[str, click.Option]) -> Iterator[str]:
    name, has_value, value = arg.partition("=")
    if name.startswith("--"):
        name = name.replace("_", "-")
    option = known.get(name)
    if isinstance(option, Toggle):
        yield from (option.opts[0], option.given(name, value if has_value else _switched(rest)))
    elif option is None:
        raise click.UsageError(no_such("option", name, _own(name, known)))
    elif option.is_flag or option.count:
        yield name
        if has_value:
            raise click.UsageError(f"{name} takes no value")
    elif has_value or rest:
        yield from (name, value if has_value else rest.popleft())
    else:
        raise click.UsageError(f"{name} needs a value")


def _switched(rest: deque[str]) -> str:
    """The value of a switch if one follows, else what its name alone means. No command with switches has arguments."""
    return rest.popleft() if rest and not rest[0].startswith("-") else "1"


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
