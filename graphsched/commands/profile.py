"""`graphsched profile`: where the time of a prompt and of a token goes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched import flags
from graphsched.commands.arguments import Command
from graphsched.commands.interrupts import Interrupts
from graphsched.commands.opening import open_session
from graphsched.commands.screen import Screen, is_terminal, show
from graphsched.commands.tables import Row, comma_separated, json_object
from graphsched.commands.values import Number, OneOf
from graphsched.errors import OptionError

if TYPE_CHECKING:
    from graphsched.options import SessionOptions
    from graphsched.profile import Phase, Request
    from graphsched.profile_data import Data


@click.command(cls=Command, epilog="Example: graphsched profile -p 128 -n 32 --csv")
@flags.session
@click.option(
    "-p", "--n-prompt", type=Number(int, 0), default=128, help="tokens of the prompt (default: 128)"
)
@click.option(
    "-n", "--n-gen", type=Number(int, 0), default=32, help="tokens generated after it (default: 32)"
)
@click.option("-r", "--repetitions", type=Number(int, 1), default=3, help="times each is run (default: 3)")
@click.option("--phase", type=OneOf("both", "prefill", "decode"), default="both", help="which to profile")
@click.option("--refresh-peaks", is_flag=True, help="measure again what this machine can do at most")
@click.option("--json", "as_json", is_flag=True, help="plain data instead of tables")
@click.option("--csv", "as_csv", is_flag=True, help="the rows of all tables as CSV")
def command(
    model: Path | None,
    options: "SessionOptions",
    n_prompt: int,
    n_gen: int,
    repetitions: int,
    phase: str,
    refresh_peaks: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show where time goes: per op, per result, waiting and overhead.

    On the CPU times are measured inside the compiled program. With --device they are predictions, and a file that ends
    after its header will do.
    """
    from graphsched.profile import Request

    asked = Request(n_prompt, n_gen, repetitions, phase)
    if not (asked.has_prompt or asked.has_generation):
        raise OptionError("-p 0 and -n 0 leave nothing to profile")
    if not options.trace:
        raise OptionError("--no-trace leaves nothing to profile")
    data = profiled(model, options, asked, refresh_peaks)[1]
    if as_csv:
        comma_separated(csv_rows(data))
    elif as_json:
        json_object(data)
    else:
        from graphsched.profile_report import render

        show(render(data, plain=not is_terminal(sys.stdout)))


def profiled(
    model: Path | None, options: "SessionOptions", asked: "Request", refresh: bool = False
) -> "tuple[list[Phase], Data]":
    """The phases of one set of options, predicted if it describes a machine, and what is said about them."""
    from graphsched.peaks import peaks
    from graphsched.profile_data import profile_data

    phases, about = predicted(model, options, asked) if options.devices else measured(model, options, asked)
    return phases, profile_data(phases, about, peaks(options, refresh))


def measured(
    model: Path | None, options: "SessionOptions", asked: "Request"
) -> "tuple[list[Phase], dict[str, Any]]":
    from graphsched.profile import measure
    from graphsched.settings import described, model_described

    screen = Screen()
    with Interrupts() as interrupts:
        session = open_session(model, options, screen, interrupts)
        check_room(asked, session.n_ctx)
        (phases,) = measure([session], asked, screen.progress)
    return phases, model_described(session.model) | described(session)


def predicted(
    model: Path | None, options: "SessionOptions", asked: "Request"
) -> "tuple[list[Phase], dict[str, Any]]":
    from graphsched.loader import open_model
    from graphsched.model import DEFAULT_MODEL, Model
    from graphsched.profile import predict
    from graphsched.settings import model_described, settings

    loaded = Model(open_model(DEFAULT_MODEL if model is None else model, header_only=True))
    check_room(asked, loaded.context(options))
    return predict(loaded, options, asked), model_described(loaded) | settings(options)


def check_room(asked: "Request", n_ctx: int) -> None:
    """OptionError if prompt and generation do not fit."""
    n_prompt = asked.n_prompt if asked.has_prompt or asked.has_generation else 0
    n_gen = asked.n_gen if asked.has_generation else 0
    if max(n_prompt, 1) + n_gen > n_ctx:
        raise OptionError(f"-p {n_prompt} and -n {n_gen} do not fit the context of {n_ctx} tokens")


def csv_rows(data: "Data") -> Iterator[Row]:
    """The rows of all tables: `table` is op, label or overhead; rows of one table add up to its fractions' 1."""
    for phase in data["phases"]:
        about = {key: phase[key] for key in ("phase", "tokens", "predicted")}
        tables = {
            "op": phase["ops"],
            "label": phase["labels"],
            "copy": phase["copies"],
            "wait": phase["waits"],
        }
        for table, rows in tables.items():
            total = sum(row["seconds"] for row in rows) or 1.0
            for index, row in enumerate(rows):
                yield about | {"table": table, "index": index} | _cells(row, total)
        for index, row in enumerate(phase["overhead"]):
            yield about | {"table": "overhead", "index": index} | _cells({"device": "", **row}, phase["wall"])


def _cells(row: Row, total: float) -> Row:
    seconds = row["seconds"]
    cells: Row = {
        "device": row["device"],
        "name": row["name"],
        "us": seconds * 1e6,
        "fraction": seconds / total,
    }
    cells |= {"spread_us": row["spread"] * 1e6, "busy_us": (row.get("busy") or seconds) * 1e6}
    return cells | {name: row.get(name, 0.0) for name in ("bytes", "flops", "gb_s", "gop_s", "of_peak")}
