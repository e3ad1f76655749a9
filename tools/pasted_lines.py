"""What becomes of other engines' command lines: how many are accepted, refused with a reason, or have unknown flags.

python tools/pasted_lines.py FILE...     a line each, as in `llama-server -m x.gguf -ngl 99 --port 80`
python tools/pasted_lines.py --all FILE  lists the lines that are not accepted, too

Each line is parsed by the command that does the same job, up to the options of the session; nothing is loaded or run.
"""

import argparse
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, Final

import click

from graphsched.cli import flags
from graphsched.cli.flag import alternatives
from graphsched.cli.model_command import ModelCommand, ModelLine
from graphsched.errors import OptionError
from graphsched.option import Option, read

JOBS: Final = {
    "server": "serve",
    "cli": "run",
    "main": "run",
    "completion": "run",
    "bench": "bench",
    "sweep-bench": "sweep-bench",
    "batched-bench": "batched-bench",
    "perplexity": "perplexity",
}
HELP: Final = ["-h", "--help"]
ACCEPTED, REASON, VALUE = "accepted", "refused with a reason", "a value is refused"
UNKNOWN, PROSE = "unknown flags", "other text in it"


@dataclass(frozen=True)
class Outcome:
    """What became of one line: its class, and the flags without effect, refused and unknown."""

    kind: str
    unused: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def outcome(name: str, args: list[str]) -> Outcome:
    """What a command makes of a line."""
    command: ModelCommand = import_module(f"graphsched.cli.commands.{name.replace('-', '_')}").command
    context = click.Context(command, help_option_names=HELP)
    line = command.line(context, args)
    assert isinstance(line, ModelLine)
    for _ in line.separated():
        pass
    reasons = (f"{name}: {why}" for why, names in line.reasons.items() for name in names)
    refused = tuple(dict.fromkeys((*reasons, *line.refused)))
    unknown = tuple(name for name, _ in line.unknown)
    kind = UNKNOWN if unknown else REASON if refused else ACCEPTED
    if kind is ACCEPTED and (sentence := bad_value(command, args, is_grid=name == "bench")):
        kind, refused = PROSE if "extra argument" in sentence else VALUE, (sentence,)
    return Outcome(kind, tuple(line.unused), refused, unknown)


def bad_value(command: ModelCommand, args: list[str], *, is_grid: bool) -> str:
    """What is wrong with the first bad value of a line; "" if nothing is."""
    try:
        with redirect_stdout(StringIO()):  # flags such as --version do something at once
            given = command.make_context("line", list(args), help_option_names=HELP).params
        for name, declared in {**flags.OPTIONS, **flags.SAMPLING, **flags.SERVER, **flags.SERVICE}.items():
            for value in each(declared, given.get(name), is_grid=is_grid):
                read(name, declared, value)
    except click.exceptions.Exit:
        return ""
    except click.BadParameter as e:
        return f"{e.param.opts[0] if e.param else ''} {e.message}"
    except click.ClickException as e:
        return e.message
    except OptionError as e:
        return f"{flags.flag_of(e.option)} {e.what}"
    return ""


def each(declared: Option, given: Any, is_grid: bool) -> Iterator[Any]:
    """The values that a parameter stands for: one, or several where the command takes lists."""
    if given is not None and given != ():
        yield from alternatives(declared, given) if is_grid else (given,)


def lines(file: Path) -> Iterator[tuple[str, list[str]]]:
    """The command and the arguments of each line of a file that names a program."""
    for text in file.read_text(errors="replace").splitlines():
        try:
            program, *args = shlex.split(text)
        except ValueError:
            continue
        name = program.replace("\\", "/").rpartition("/")[2].removesuffix(".exe").removeprefix("llama-")
        if name in JOBS:
            yield JOBS[name], args


def main() -> None:
    """Prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--all", action="store_true", help="list the lines that are not accepted")
    asked = parser.parse_args()
    kinds, unused, refused, unknown = (Counter[str]() for _ in range(4))
    for name, args in (line for file in asked.files for line in lines(file)):
        found = outcome(name, args)
        kinds[found.kind] += 1
        unused.update(set(found.unused))
        refused.update(found.refused)
        unknown.update(set(found.unknown))
        if asked.all and found.kind != ACCEPTED:
            print(
                f"{found.kind}: {name} {shlex.join(args)}\n    {'; '.join((*found.refused, *found.unknown))}"
            )
    total = kinds.total() or 1
    print(
        f"{kinds.total()} lines: "
        + ", ".join(f"{n} {k} ({100 * n / total:.1f}%)" for k, n in kinds.most_common())
    )
    for title, counts in ("without effect", unused), ("refused", refused), ("unknown", unknown):
        print(f"{title}:")
        print("\n".join(f"{n:6} {what}" for what, n in counts.most_common(40)))


if __name__ == "__main__":
    main()
