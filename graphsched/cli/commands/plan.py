"""`graphsched plan`: what would run where, what it takes, and why, without running it."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched.cli import flags
from graphsched.cli.arguments import Command
from graphsched.cli.excess import context_hint
from graphsched.cli.model_command import ModelCommand
from graphsched.cli.screen import Screen
from graphsched.cli.values import Number, OneOf
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.session.options import SessionOptions


@click.command(cls=ModelCommand, epilog="Example: graphsched plan --device sim:rtx4090 -ot exps=CPU --nodes")
@flags.session
@click.option(
    "--phase", type=OneOf("prefill", "decode"), default="decode", help="a prompt, or one token (default)"
)
@click.option(
    "-p", "--n-prompt", type=Number(int, 1), default=512, help="tokens of the prompt (default: 512)"
)
@click.option("--nodes", is_flag=True, help="every node with its device and why it is there")
@click.option("--vs", metavar="FLAGS", help="what changes with other flags, as in --vs '-op 26,0'")
@click.option("--json", "as_json", is_flag=True, help="plain data instead of tables")
def command(
    model: Path | None,
    options: "SessionOptions",
    phase: str,
    n_prompt: int,
    nodes: bool,
    vs: str | None,
    as_json: bool,
) -> None:
    """Show what would run where, and why, without running it.

    Works on a file that ends after its header. Times are predictions for the machine that --device names.
    """
    from graphsched.gguf.loader import open_model
    from graphsched.predict.plan import make_plan
    from graphsched.report import plan as report
    from graphsched.session.model import DEFAULT_MODEL, Model

    loaded = Model(open_model(DEFAULT_MODEL if model is None else model, header_only=True))
    if hint := context_hint(loaded.context(options), loaded.n_ctx_train):
        Screen().hint(f"hint: {hint}")
    n_tokens = n_prompt if phase == "prefill" else 1
    n_kv = min(n_prompt if phase == "prefill" else n_prompt + 1, loaded.context(options))
    n_tokens = min(n_tokens, n_kv, options.n_ubatch)
    made = make_plan(loaded, options, n_tokens, 1, n_kv)
    if vs is None:
        return show(report.as_data(made, nodes), as_json, lambda: report.render(made, nodes))
    other = make_plan(loaded, with_flags(vs), n_tokens, 1, n_kv)
    change = report.difference(made, other)
    return show(change, as_json, lambda: report.render_difference(change))


def show(data: Any, as_json: bool, render: Any) -> None:
    """Data as JSON, or a rendering of it, on standard output."""
    if as_json:
        click.echo(json.dumps(data, indent=1))
        return
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200  # piped tables are not folded
    Console(width=width).print(render())


def with_flags(text: str) -> "SessionOptions":
    """The options of the command that runs, with further flags behind its own."""
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise OptionError(f"--vs {text}: {str(e).lower()}") from None

    @click.command(cls=Command)
    @flags.session
    def reader(model: Path | None, options: "SessionOptions") -> None:
        """A command that is never run; click parses flags with it."""

    behind = reader.make_context("--vs", words).params
    if behind["model"] is not None:
        raise OptionError("--vs compares flags, not models")
    return flags.further(click.get_current_context().params, behind)
