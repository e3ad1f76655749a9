"""`graphsched bench`: the pp/tg table of llama-bench."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched import flags
from graphsched.commands.arguments import Command, Number, OneOf
from graphsched.commands.interrupts import INTERRUPTED, Interrupts
from graphsched.commands.opening import open_session
from graphsched.commands.screen import Screen
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.options import SessionOptions

Row = dict[str, Any]
_WIDTHS: Final = {"model": 28, "size": 10, "params": 10, "test": 8, "t/s": 20}
_LEFT: Final = ("model", "backend", "type_k", "type_v")


@click.command(cls=Command, epilog="Example: graphsched bench -p 512 -n 128 -r 5 -o json")
@click.option(
    "-p", "--n-prompt", type=Number(int, 0), default=512, help="tokens of the prompt (default: 512)"
)
@click.option("-n", "--n-gen", type=Number(int, 0), default=128, help="tokens to generate (default: 128)")
@click.option("-r", "--repetitions", type=Number(int, 1), default=5, help="runs of each test (default: 5)")
@click.option(
    "-o",
    "--output",
    type=OneOf("md", "csv", "json"),
    metavar="md|csv|json",
    default="md",
    help="(default: md)",
)
@click.option("--json", "as_json", is_flag=True, help="the same as -o json")
@flags.session
@click.option("-v", "--verbose", is_flag=True, help="say more about model and options")
@click.option("-q", "--quiet", is_flag=True, help="only the results")
def command(model: Path | None, options: "SessionOptions", output: str, as_json: bool, **values: Any) -> None:
    """Measure tokens per second: a prompt (pp) and generation (tg), mean and standard deviation.

    Each test starts from an empty cache, after a run that is not counted; 0 tokens leave it out. The context is as
    long as the longer test, if -c does not say more.
    """
    n_prompt, n_gen = values["n_prompt"], values["n_gen"]
    options = flags.changed(options, n_ctx=context(options.n_ctx, n_prompt, n_gen))
    screen = Screen(quiet=values["quiet"], verbose=values["verbose"])
    rows = measured(model, options, screen, n_prompt, n_gen, values["repetitions"])
    WRITERS["json" if as_json else output](rows)


def context(asked: int, n_prompt: int, n_gen: int) -> int:
    """Tokens that the longer test needs, or what was asked for if that is enough."""
    needed = max(n_prompt, n_gen)
    if needed == 0:
        raise OptionError("-p and -n are both 0, there is nothing to measure")
    if 0 < asked < needed:
        raise OptionError(f"-c is {asked}, the longer test needs {needed}")
    return asked or needed


def measured(
    model: Path | None, options: "SessionOptions", screen: Screen, n_prompt: int, n_gen: int, repetitions: int
) -> Iterator[Row]:
    """The results, each as soon as it is there."""
    with Interrupts() as interrupts:
        session = open_session(model, options, screen, interrupts)
        from graphsched import bench  # after the interrupts, as it imports the compiler
        from graphsched.session import Aborted

        for test in (bench.Test(n_prompt, 0), bench.Test(0, n_gen)):
            if test.n_prompt + test.n_gen == 0:
                continue
            try:
                with interrupts.aborting(session):
                    result = bench.measure(session, test, repetitions, screen.progress)
            except Aborted:
                raise click.exceptions.Exit(INTERRUPTED) from None
            screen.clear()
            yield bench.row(session, result)


def markdown(rows: Iterable[Row]) -> None:
    """The table of llama-bench; settings only where they are not the default."""
    header = False
    for row in rows:
        cells = _cells(row)
        if not header:
            header = True
            widths = {name: max(len(name), len(cell), _WIDTHS.get(name, 0)) for name, cell in cells.items()}
            print(_line({name: name for name in cells}, widths))
            print("|".join(["", *(_rule(name, widths[name]) for name in cells), ""]))
        print(_line(cells, widths), flush=True)


def _cells(row: Row) -> dict[str, str]:
    from graphsched.options import SWITCHES, SessionOptions

    default: dict[str, Any] = {
        f: getattr(SessionOptions(), f) for f in ("n_batch", "n_ubatch", "type_k", "type_v", "mla")
    }
    default |= {name.replace("-", "_"): True for name in SWITCHES}
    default["n_ubatch"] = min(default["n_ubatch"], row["n_batch"], row["n_ctx"])
    return {
        "model": f"{row['model_name']} {row['model_type']}",
        "size": f"{row['model_size'] / 2**20:.2f} MiB",
        "params": _short(row["model_n_params"]),
        "backend": row["backend"],
        "threads": str(row["n_threads"]),
        **{
            name: str(int(row[name]) if row[name] is False else row[name])
            for name in default
            if row[name] != default[name]
        },
        "test": row["test"],
        "t/s": f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}",
    }


def _short(n: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= unit:
            return f"{n / unit:.2f} {name}"
    return str(n)


def _line(cells: Mapping[str, str], widths: Mapping[str, int]) -> str:
    padded = (f"{c:<{widths[n]}}" if n in _LEFT else f"{c:>{widths[n]}}" for n, c in cells.items())
    return f"| {' | '.join(padded)} |"


def _rule(name: str, width: int) -> str:
    return f" {'-' * width} " if name in _LEFT else f" {'-' * width}:"


def comma_separated(rows: Iterable[Row]) -> None:
    """One line per test; the samples are in the JSON only."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    for i, row in enumerate(rows):
        flat = {name: value for name, value in row.items() if not isinstance(value, list)}
        if i == 0:
            writer.writerow(flat)
        writer.writerow(flat.values())
        sys.stdout.flush()


def as_json_list(rows: Iterable[Row]) -> None:
    print(json.dumps(list(rows), indent=2))


WRITERS: Final[Mapping[str, Callable[[Iterable[Row]], None]]] = {
    "md": markdown,
    "csv": comma_separated,
    "json": as_json_list,
}
