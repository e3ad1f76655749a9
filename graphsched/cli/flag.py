"""A flag of the command line: declared once, added to a command for one value or for lists of them."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from graphsched.cli.commands.arguments import Toggle
from graphsched.cli.commands.values import Alternatives, ListOf, ParamType, Switch

Function = Callable[..., Any]


@dataclass(frozen=True)
class Flag:
    """A flag, the option's field that it sets, and how it reads."""

    field: str
    names: str
    type: ParamType
    help: str
    multiple: bool = False  # given several times, the option is a tuple
    off: str = ""  # of a switch: names that turn it off

    @property
    def switch(self) -> str:
        """The name of a switch in `SessionOptions.off`."""
        return self.field.replace("_", "-")

    def add(self, command: Function, *, lists: bool = False) -> Function:
        """A decorator; a value that is not given is None and leaves the choice to the options' own default.

        With `lists` the flag takes several values and may be repeated: the same flag, but of a grid.
        """
        given: dict[str, Any] = {"type": self.type, "multiple": self.multiple or lists}
        if isinstance(self.type, Switch):
            given |= {"cls": Toggle, "off": self.off.split()}
        if lists:
            given["type"] = Alternatives(self.type) if self.multiple else ListOf(self.type)
        return click.option(*self.names.split(), self.field, help=self.help, **given)(command)

    def alternatives(self, given: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """The single values that lists stand for. Of a flag that may be repeated each occurrence adds to the value."""
        if not self.multiple:
            return tuple(dict.fromkeys(itertools.chain.from_iterable(given))) or (None,)
        return tuple(tuple(text for text in texts if text) for texts in itertools.product(*given))
