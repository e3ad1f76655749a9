"""The command line: `graphsched COMMAND`; a command's module is imported when the command is named."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from graphsched import __version__, env
from graphsched.cli.screen import is_terminal, leave_quietly
from graphsched.cli.suggestions import no_such
from graphsched.errors import Error, OptionError

COMMANDS: Final = {
    "run": "Generate text, or chat with -i.",
    "serve": "Serve a model over HTTP, as OpenAI, Anthropic and llama.cpp do.",
    "bench": "Measure tokens per second, of prompts and of generation.",
    "sweep-bench": "Measure prompts and generation as the KV cache fills.",
    "batched-bench": "Measure prompts and generation of several sequences at once.",
    "perplexity": "Measure how well a model predicts a text, or how far it is from another.",
    "plan": "Show what would run where, and why, without running it.",
    "measure": "Measure how fast this machine computes, for predictions.",
    "profile": "Show where time goes: per op, per result, waiting and overhead.",
    "inspect": "Show what is in a model file.",
    "models": "List the architectures, with what each needs and what it lacks here.",
    "devices": "List what this machine can compute on, or why not.",
    "ops": "List the ops, and which backends run them on which types.",
    "quantize": "Write a model file with fewer bits per weight.",
    "imatrix": "Collect how large activations are, for quantize --imatrix.",
    "convert": "Make a model file from a checkpoint of Hugging Face or of BitNet.",
    "gguf": "Split or merge model files, or change their metadata.",
    "tokenize": "Show the tokens of a text.",
    "synth": "Write a model file with real shapes and made-up weights.",
}
ALIASES: Final = {"server": "serve"}
BAD_INPUT, BUG, INTERRUPTED, NO_READER = 2, 1, 130, 141


class Commands(click.Group):
    """Lists commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, whose module is imported now; None for an unknown name."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(
            f"graphsched.cli.commands.{cmd_name.replace('-', '_')}"
        ).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; UsageError with the likeliest names for an unknown command."""
        if args[0] not in {**COMMANDS, **ALIASES}:
            raise click.UsageError(no_such("command", args[0], COMMANDS))
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; no arguments mean --help. UsageError for a flag in front of the command."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help", "--version"):
            raise click.UsageError(f"a command comes first, as in graphsched run {args[0]}")
        return super().parse_args(ctx, args or ["--help"])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: graphsched run -p 'Once upon a time' -n 64",
)
@click.version_option(__version__, "--version", message="graphsched %(version)s")
def cli() -> None:
    """Runs GGUF models, and says where every op runs and why.

    graphsched COMMAND --help tells more about a command.
    """


def main() -> NoReturn:
    """The program."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us; print would take the other one
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for good
        getattr(sys, name).reconfigure(errors="replace")  # a command line may hold bytes that are no text
    code = run(sys.argv[1:])
    if code == INTERRUPTED:
        os._exit(code)  # taking the interpreter down takes longer than Ctrl-C may
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Runs one command line; the exit code. Whatever goes wrong becomes one sentence on stderr."""
    try:
        code = _invoke(list(args))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        leave_quietly()
        return NO_READER
    except KeyboardInterrupt:
        if is_terminal(sys.stderr):
            print(file=sys.stderr)
        return INTERRUPTED
    except (click.ClickException, Error, MemoryError) as e:
        return _said(_sentence(e), BAD_INPUT)
    except OSError as e:
        what = (e.strerror or str(e)).lower()
        return _said(f"{e.filename}: {what}" if e.filename else what, BUG)
    except Exception as e:
        if env.debug():
            raise
        what = " ".join(f"{type(e).__name__}: {e}".split())
        return _said(f"this is a bug, GRAPHSCHED_DEBUG=1 shows where ({what})", BUG)


def _invoke(args: list[str]) -> int:
    if "_GRAPHSCHED_COMPLETE" in os.environ:  # a shell asks for completions
        cli.main(args, prog_name="graphsched")
    try:
        with cli.make_context("graphsched", args) as ctx:
            cli.invoke(ctx)
    except click.exceptions.Exit as e:
        return e.exit_code
    return 0


def _said(sentence: str, code: int) -> int:
    print(f"graphsched: {sentence}", file=sys.stderr, flush=True)
    return code


def _sentence(e: Exception) -> str:
    if isinstance(e, MemoryError):
        return f"not enough memory, a smaller context (-c) needs less ({e or 'nothing left'})"
    if isinstance(e, OptionError) and e.option:
        from graphsched.cli.flags import flag_of

        return f"{flag_of(e.option)} {e.what}"
    if not isinstance(e, click.ClickException):
        return str(e)
    text: Any = e.message
    if isinstance(e, click.BadParameter) and isinstance(e.param, click.Option):
        return f"{e.param.opts[0]} {text}"
    text = e.format_message().rstrip(".")
    return text[:1].lower() + text[1:]
