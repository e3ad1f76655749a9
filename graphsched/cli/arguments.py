"""Flags as llama.cpp's users write them: -ub 5, -ngl 100, -fa 1, --ctx_size 512; others are reported whole, at once."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import click

from graphsched.cli.foreign import Foreign, Kind
from graphsched.cli.suggestions import likely
from graphsched.cli.values import OneOf, Word
from graphsched.errors import OptionError
from graphsched.option import Words, switch

_OPPOSITE: Final = {"0": "1", "1": "0", "on": "off", "off": "on"}
_NUMBER: Final = re.compile(r"[-+]?\d")
_FLAG: Final = re.compile(r"--?[A-Za-z]")
_LONGEST_SHOWN: Final = 16  # letters of a value, in a message


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


Known = Mapping[str, click.Option]


def flags_of(command: click.Command, ctx: click.Context) -> Known:
    """The options of a command by each of their names."""
    options = (p for p in command.get_params(ctx) if isinstance(p, click.Option))
    return {name: p for p in options for name in (*p.opts, *p.secondary_opts)}


class Command(click.Command):
    """A command that takes several letters behind one dash for one flag, never for several."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses arguments after separating flags from values. UsageError that names all flags which are none."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        line = self.line(ctx, args)
        words = list(line.separated())
        if sentence := line.complaint:
            raise click.UsageError(sentence)
        return super().parse_args(ctx, words)

    def line(self, ctx: click.Context, args: Iterable[str]) -> "Line":
        """The command line, to be separated."""
        return Line(deque(args), flags_of(self, ctx))


@dataclass
class Line:
    """A command line: flags and values so far read, flags without effect, and what is wrong with others.

    known: the flags of the command. foreign: what a flag means that is none of them.
    """

    rest: deque[str]
    known: Known
    unused: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)  # with what was probably meant

    def foreign(self, name: str) -> Foreign | None:
        """What a flag of another program means; None if it is unknown."""
        return None

    @property
    def complaint(self) -> str:
        """What is wrong with the line, in one sentence; "" if nothing is."""
        if len(self.unknown) == 1 and not self.refused:
            name, meant = self.unknown[0]
            return f"no such option {name}" + (f"; did you mean {meant}?" if meant else "")
        names = [name + (f" (did you mean {meant}?)" if meant else "") for name, meant in self.unknown]
        unknown = [f"no such option{'s' * (len(names) > 1)} {', '.join(names)}"] if names else []
        return "; ".join([*dict.fromkeys(self.refused), *unknown])

    def separated(self) -> Iterator[str]:
        """The arguments with every flag known and apart from its value.

        click would take an unknown -nlg for -n with the value lg, and -t4 for -t 4, which llama.cpp does not accept.
        """
        while self.rest:
            arg = self.rest.popleft()
            if arg == "--":
                yield from (arg, *self.rest)
                return
            if len(arg) < 2 or not arg.startswith("-"):
                yield arg
            else:
                name, has_value, value = arg.partition("=")
                name = name.replace("_", "-") if name.startswith("--") else name
                yield from self._flag(name, value if has_value else None)

    def _flag(self, name: str, value: str | None) -> Iterator[str]:
        """One flag; `value` is what stands behind its =."""
        option = self.known.get(name)
        if option is None:
            yield from self._no_option(name, value)
        elif isinstance(option, Toggle):
            yield from self._toggle(option, name, value)
        elif option.is_flag or option.count:
            yield name
            if value is not None:
                self.refused.append(f"{name} takes no value")
        elif value is not None or self.rest:
            value = self.rest.popleft() if value is None else value
            yield from () if self._is_of_another(option, name, value) else (name, value)
        else:
            self.refused.append(f"{name} needs a value")

    def _toggle(self, option: Toggle, name: str, value: str | None) -> Iterator[str]:
        """A switch. No command with switches has arguments, so what stands behind one is its value."""
        if value is None:
            value = self.rest.popleft() if self.rest and not self.rest[0].startswith("-") else "1"
        try:
            yield from (option.opts[0], option.given(name, value))
        except OptionError as e:
            self.refused.append(str(e))

    def _is_of_another(self, option: click.Option, name: str, value: str) -> bool:
        """Whether only another command's flag of this name reads such a value, as a text for -p; it is noted, then."""
        if _reads(option, value) or isinstance(option.type, OneOf):  # another format is no substitute
            return False
        other = self.foreign(name)
        if other is None or other.option is None or not _reads(other.option, value):
            return False
        if _NUMBER.match(value) and isinstance(other.option.type, click.types.StringParamType | Word):
            return False  # a number, however badly it is written
        self.unused.append(f"{name} {shortened(value)}")
        return True

    def _no_option(self, name: str, value: str | None) -> Iterator[str]:
        """A flag that the command does not have."""
        found = self.foreign(name)
        if found is None:
            behind = value if value is not None else self._next_value()
            self.unknown.append((name, likely(name, self._candidates(name, behind))))
            self._skip()
        elif found.kind is Kind.TAKEN:
            yield from self._taken(found, value)
        elif found.kind is Kind.UNUSED:
            self.unused.append(name)
            if value is None:
                found.consume(self.rest)
        else:
            self.refused.append(f"{name}: {found.why}")
            self._skip()

    def _taken(self, found: Foreign, value: str | None) -> Iterator[str]:
        """What stands for another program's flag here: our name of it, or flags with their values."""
        if len(found.words) == 1:
            yield from self._flag(found.words[0], value)
        elif found.switched(value, self.rest):
            yield from self._flag(found.words[0], " ".join(found.words[1:]))

    def _candidates(self, name: str, value: str | None) -> Iterator[str]:
        """Flags of the same kind: that take such a value, or need none."""
        for flag, option in self.known.items():
            is_attached = flag == name[:2] and not option.is_flag and name[2:].lstrip("+-").isdigit()
            if is_attached:
                yield f"{flag} {name[2:]}"
            elif _fits(option, value):
                yield flag

    def _next_value(self) -> str | None:
        return self.rest[0] if self.rest and not _FLAG.match(self.rest[0]) else None

    def _skip(self) -> None:
        """Leaves out what can only be values."""
        while self._next_value() is not None:
            self.rest.popleft()


def _fits(option: click.Option, value: str | None) -> bool:
    """Whether an option can have stood in front of this value, or of none."""
    if isinstance(option, Toggle):
        return value is None or value in option.words.values
    return (option.is_flag or bool(option.count)) == (value is None)


def _reads(option: click.Option, value: str) -> bool:
    """Whether the type of an option reads a value. Options of a session do so later."""
    with suppress(click.BadParameter):
        option.type(value, option, None)
        return True
    return False


def shortened(value: str) -> str:
    """A value in a message: one line, and not a long one."""
    text = " ".join(value.split())
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
