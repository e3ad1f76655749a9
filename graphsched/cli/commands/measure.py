"""`graphsched measure`: how fast this machine computes, for predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched.cli.arguments import Command
from graphsched.cli.interrupts import Interrupts
from graphsched.cli.screen import Screen
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.types.dtypes import DType


@click.command(cls=Command, epilog="Example: graphsched measure -t 1,2")
@click.option("-t", "--threads", metavar="N,...", default="", help="numbers of threads (default: the cores)")
@click.option("--types", metavar="TYPE,...", default="", help="types of weights (default: common ones)")
@click.option("-m", "--model", type=click.Path(path_type=Path), metavar="FILE", help="the types of this file")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="write it there instead"
)
@click.option("-q", "--quiet", is_flag=True, help="no progress")
def command(threads: str, types: str, model: Path | None, output: Path | None, quiet: bool) -> None:
    """Measure how fast this machine multiplies, attends and synchronises, so that `plan` predicts it.

    It takes about half a minute for each number of threads, and wants the machine for itself. What is found is kept,
    and used by every plan without devices; types that were not measured are added to it with --types or -m.
    """
    with Interrupts() as interrupts:
        from graphsched.run.limits import usable_cores  # not above: they import the compiler

        screen = Screen(quiet=quiet)
        counts = numbers(threads) or (usable_cores(),)
        if output and counts[1:]:
            raise OptionError("-o is one file, which is for one number of threads")
        asked = types_of(types, model)

        def progress(what: str, done: int, total: int) -> None:
            interrupts.check()
            screen.progress(what, done, total)

        interrupts.last_words = screen.end
        for n in counts:
            _measure(n, asked, output, screen, progress)


def _measure(
    n_threads: int, types: "tuple[DType, ...]", output: Path | None, screen: Screen, progress: Any
) -> None:
    from graphsched.gguf.atomic import replacing
    from graphsched.machine.description import text_of
    from graphsched.machine.kept import file_of, kept
    from graphsched.measure.machine import measure
    from graphsched.report.machine import rendered

    found = measure(n_threads, types, progress, None if output else kept(n_threads))
    screen.clear()
    path = output or file_of(n_threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(text_of(found.machine).encode())
    if found.is_busy:
        screen.hint(
            f"hint: other programs were running, times varied by {found.spread - 1:.0%}; measure again"
        )
    screen.say(f"{found.machine.name}: {path}")
    rendered(found.machine)


def numbers(text: str) -> tuple[int, ...]:
    """Numbers of threads. OptionError for anything else."""
    from graphsched.session.options import MAX_THREADS

    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isdecimal() and 1 <= int(part) <= MAX_THREADS for part in parts):
        raise OptionError(f"-t is {text}, numbers from 1 to {MAX_THREADS} are needed")
    return tuple(dict.fromkeys(map(int, parts)))


def types_of(text: str, model: Path | None) -> "tuple[DType, ...]":
    """The types that are named, and those of a file's matrices; common ones if there are none."""
    from graphsched.graph.ops.matmul import WEIGHT_TYPES
    from graphsched.measure.machine import TYPES
    from graphsched.session.model import open_default_or
    from graphsched.types import dtypes

    names = [name.strip() for name in text.split(",")] if text else []
    found = [dtypes.by_name(name) for name in names]
    if model is not None:
        loaded = open_default_or(model, (), header_only=True)
        found += [t.dtype for t in loaded.types.values() if len(t.shape) > 1]
    found = list(dict.fromkeys(found)) or [dtypes.by_name(name) for name in TYPES]
    if bad := next((t for t in found if t not in WEIGHT_TYPES), None):
        raise OptionError(f"--types {bad.name}: there are no products with weights of this type")
    return tuple(found)
