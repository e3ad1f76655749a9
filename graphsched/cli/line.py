"""Flags as llama.cpp's users write them: -ub 5, -ngl 100, -fa 1, --ctx_size 512; others are reported whole, at once."""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import click

from graphsched.cli.foreign import Foreign, Kind
from graphsched.cli.suggestions import likely
from graphsched.cli.toggle import Toggle
from graphsched.cli.values import OneOf, Word
from graphsched.errors import OptionError

Known = Mapping[str, click.Option]
_NUMBER: Final = re.compile(r"[-+]?\d")
_FLAG: Final = re.compile(r"--?[A-Za-z]")
_LONGEST_SHOWN: Final = 16  # letters of a value, in a message


@dataclass
class Line:
    """A command line: flags and values so far read, flags without effect, and what is wrong with others.

    known: the flags of the command. foreign: what a flag means that is none of them.
    """

    rest: deque[str]
    known: Known
    unused: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    reasons: dict[str, list[str]] = field(default_factory=dict)  # with the flags that are refused for them
    values: dict[click.Option, str] = field(default_factory=dict)  # of flags that have one, as typed so far
    repeated: list[str] = field(default_factory=list)  # such flags that came again, with another value
    unknown: list[tuple[str, str]] = field(default_factory=list)  # with what was probably meant

    def foreign(self, name: str) -> Foreign | None:
        """What a flag of another program means; None if it is unknown."""
        return None

    @property
    def complaint(self) -> str:
        """What is wrong with the line, in one sentence; "" if nothing is."""
        if len(self.unknown) == 1 and not self.refused and not self.reasons:
            name, meant = self.unknown[0]
            return f"no such option {name}" + (f"; did you mean {meant}?" if meant else "")
        names = [name + (f" (did you mean {meant}?)" if meant else "") for name, meant in self.unknown]
        unknown = [f"no such option{'s' * (len(names) > 1)} {', '.join(names)}"] if names else []
        reasons = [f"{', '.join(dict.fromkeys(flags))}: {why}" for why, flags in self.reasons.items()]
        return "; ".join([*reasons, *dict.fromkeys(self.refused), *unknown])

    def separated(self) -> Iterator[str]:
        """The arguments with every flag known and apart from its value.

        click would take an unknown -nlg for -n with the value lg, and -t4 for -t 4, which llama.cpp does not accept.
        """
        while self.rest:
            arg = self.rest.popleft()
            if arg == "--":
                yield from (arg, *self.rest)
                return
            yield from self._flagged(arg) if len(arg) > 1 and arg.startswith("-") else self.argument(arg)

    def argument(self, arg: str) -> Iterator[str]:
        """What a word means that is neither a flag nor a value."""
        yield arg

    def _flagged(self, arg: str) -> Iterator[str]:
        """A flag as it is written, perhaps with a = and a value."""
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
            if not self._is_of_another(option, name, value):
                self._note(option, name, value)
                yield from (name, value)
        else:
            self.refused.append(f"{name} needs a value")

    def _note(self, option: click.Option, name: str, value: str) -> None:
        """Notes the value, and whether it takes the place of another one."""
        if not option.multiple and self.values.setdefault(option, value) != value:
            self.repeated.append(name)

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
            self.reasons.setdefault(found.why, []).append(name)
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
