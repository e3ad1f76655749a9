"""A switch of the command line: -fa, -fa 0, -no-fa."""

from collections.abc import Sequence
from typing import Any, Final

import click

from graphsched.errors import OptionError
from graphsched.option import Words, switch

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
