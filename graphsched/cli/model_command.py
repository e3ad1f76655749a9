"""Commands that run a model: each takes the flags of all others and of other engines' programs, or says why not."""

import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

import click

from graphsched import __version__
from graphsched.cli.arguments import Command, flags_of
from graphsched.cli.foreign import Foreign, Kind, table
from graphsched.cli.line import Line
from graphsched.cli.screen import Screen
from graphsched.cli.toggle import Toggle

COMMANDS: Final = (
    *("run", "serve", "bench", "sweep-bench", "batched-bench", "perplexity", "imatrix", "plan", "profile"),
)
_LINE: Final = "graphsched.line"
_VARIABLES: Final = "LLAMA_ARG_"
_PROGRAM: Final = re.compile(r"(.*[/\\])?(llama-[a-z-]+|main)(\.exe)?")
_LONG_DASHES: Final = "\u2013\u2014\u2212"


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(f"graphsched {__version__}")
        ctx.exit()


def _devices(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from graphsched.cli.commands import devices

        ctx.invoke(devices.command)
        ctx.exit()


# Instead of the command, as other programs have them; graphsched --version and graphsched devices are the same.
_INSTEAD: Final = tuple(
    click.Option([name], is_flag=True, is_eager=True, expose_value=False, hidden=True, callback=done)
    for name, done in (("--version", _version), ("--list-devices", _devices))
)


class ModelCommand(Command):
    """A command that runs a model. What is given and has no effect is named in one line before it begins."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own options, and those that do something instead."""
        return [*super().get_params(ctx), *_INSTEAD]

    def line(self, ctx: click.Context, args: Iterable[str]) -> Line:
        """The command line, which knows foreign flags; the program that it was for may be its first word."""
        rest = deque(args)
        if rest and _PROGRAM.fullmatch(rest[0]):
            rest.popleft()
        line = ctx.meta[_LINE] = ModelLine(rest, flags_of(self.get_params(ctx)), command=self)
        return line

    def invoke(self, ctx: click.Context) -> Any:
        """As click does, after the hints."""
        screen = Screen(quiet=bool(ctx.params.get("quiet")))
        if unused := ctx.meta[_LINE].unused:
            screen.say(f"hint: without effect here: {', '.join(dict.fromkeys(unused))}")
        if repeated := ctx.meta[_LINE].repeated:
            screen.say(f"hint: given more than once, the last counts: {', '.join(dict.fromkeys(repeated))}")
        if variables := sorted(name for name in os.environ if name.startswith(_VARIABLES)):
            screen.say(f"hint: only flags are read, no variables: {', '.join(variables)}")
        return super().invoke(ctx)


@dataclass
class ModelLine(Line):
    """The command line of such a command."""

    command: click.Command | None = None

    def foreign(self, name: str) -> Foreign | None:
        """A flag of another engine, unless it is one of another command of ours; None if it is neither."""
        return of_others(name, self.command) or table().get(name)

    def argument(self, arg: str) -> Iterator[str]:
        """What a word means: with a long dash, as texts have it, a flag. The commands take nothing else."""
        letters = arg.lstrip(_LONG_DASHES)
        if letters != arg:
            name = letters.partition("=")[0]
            dashes = next((d for d in ("--", "-") if d + name in self.known or self.foreign(d + name)), "--")
            yield from self._flagged(dashes + letters)
        elif arg.strip():
            yield arg
        else:
            self.refused.append("a space behind a backslash ends the line, what follows is missing")


def of_others(name: str, command: click.Command | None) -> Foreign | None:
    """The flag of another command that runs a model, which has no effect on this one."""
    for other in (import_module(f"graphsched.cli.commands.{c.replace('-', '_')}").command for c in COMMANDS):
        option = flags_of(other.params).get(name)
        if option is not None and other is not command:
            is_switch = isinstance(option, Toggle) or option.is_flag or bool(option.count)
            return Foreign((name,), Kind.UNUSED, () if is_switch else ("VALUE",), option=option)
    return None
