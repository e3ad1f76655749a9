"""Commands with flags as llama.cpp's users write them."""

from collections import deque
from collections.abc import Iterable

import click

from graphsched.cli.line import Known, Line


def flags_of(params: Iterable[click.Parameter]) -> Known:
    """The options among the parameters of a command, by each of their names."""
    options = (p for p in params if isinstance(p, click.Option))
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

    def line(self, ctx: click.Context, args: Iterable[str]) -> Line:
        """The command line, to be separated."""
        return Line(deque(args), flags_of(self.get_params(ctx)))
