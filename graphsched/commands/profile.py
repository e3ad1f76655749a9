"""`graphsched profile`: where the time of a prompt and of a token goes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graphsched import flags
from graphsched.commands.arguments import Command
from graphsched.commands.interrupts import Interrupts
from graphsched.commands.opening import open_session
from graphsched.commands.plan import show
from graphsched.commands.screen import Screen
from graphsched.commands.tables import Row, comma_separated
from graphsched.commands.values import Number, OneOf

if TYPE_CHECKING:
    from rich.console import RenderableType

    from graphsched.options import SessionOptions
    from graphsched.profile import Phase
    from graphsched.profile import Row as Sum


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
@click.option("--json", "as_json", is_flag=True, help="plain data instead of tables")
@click.option("--csv", "as_csv", is_flag=True, help="the rows of all tables as CSV")
def command(
    model: Path | None,
    options: "SessionOptions",
    n_prompt: int,
    n_gen: int,
    repetitions: int,
    phase: str,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Show where time goes: per op, per result, waiting and overhead.

    On the CPU times are measured inside the compiled program. With --device they are predictions.
    """
    from graphsched.errors import OptionError
    from graphsched.profile import profile

    with Interrupts() as interrupts:
        session = open_session(model, options, Screen(), interrupts)
        if n_prompt + n_gen > session.n_ctx:
            raise OptionError(
                f"-p {n_prompt} and -n {n_gen} do not fit the context of {session.n_ctx} tokens"
            )
        phases = profile(session, n_prompt, n_gen, repetitions, phase)
    if as_csv:
        comma_separated(csv_rows(phases))
    else:
        show([as_data(p) for p in phases], as_json, lambda: render(phases))


def as_data(phase: "Phase") -> dict[str, Any]:
    """A phase as plain data, seconds per token or prompt not divided."""
    return {
        "phase": phase.name,
        "tokens": phase.tokens,
        "predicted": phase.is_predicted,
        "wall": phase.wall,
        "ops": _rows_data(phase.ops),
        "labels": _rows_data(phase.labels),
        "overhead": {name: row.seconds for name, row in phase.overhead.items()},
    }


def csv_rows(phases: "list[Phase]") -> Iterator[Row]:
    """The rows of all tables: `table` is op, label or overhead; rows of one table add up to its fractions' 1."""
    for phase in phases:
        about = {"phase": phase.name, "tokens": phase.tokens, "predicted": phase.is_predicted}
        data = as_data(phase)
        for table, rows in (("op", data["ops"]), ("label", data["labels"])):
            total = sum(row["seconds"] for row in rows) or 1.0
            for index, row in enumerate(rows):
                yield about | {"table": table, "index": index} | _csv_cells(row, total)
        for index, (name, seconds) in enumerate(data["overhead"].items()):
            row = {"device": "", "name": name, "seconds": seconds, "bytes": 0.0, "flops": 0.0}
            yield about | {"table": "overhead", "index": index} | _csv_cells(row, phase.wall)


def _csv_cells(row: Row, total: float) -> Row:
    seconds = row["seconds"]
    rates = {
        n: row[key] / seconds / 1e9 if seconds else 0.0 for n, key in (("gb_s", "bytes"), ("gop_s", "flops"))
    }
    cells = {"device": row["device"], "name": row["name"], "us": seconds * 1e6, "fraction": seconds / total}
    return cells | rates


def _rows_data(rows: Mapping[tuple[str, str], "Sum"]) -> list[dict[str, Any]]:
    return [
        {"device": d, "name": n, "seconds": r.seconds, "bytes": r.nbytes, "flops": r.flops}
        for (d, n), r in _sorted(rows)
    ]


def _sorted(rows: Mapping[tuple[str, str], "Sum"]) -> list[tuple[tuple[str, str], "Sum"]]:
    return sorted(rows.items(), key=lambda item: -item[1].seconds)


def render(phases: "list[Phase]") -> "RenderableType":
    """Tables as those of ik_llama.cpp's PR 232: index, op, µs, fraction; products by result, layers summed."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for phase in phases:
        rate = phase.tokens / phase.wall
        how = "predicted" if phase.is_predicted else "measured"
        parts.append(
            Text(
                f"\n{phase.name}: {rate:.1f} tokens/s, {phase.wall * 1e6 / phase.tokens:.1f} µs per token, {how}"
            )
        )
        parts += [_table(phase, "OP", phase.ops), _table(phase, "result", phase.labels), _overhead(phase)]
    return Group(*parts)


def _table(phase: "Phase", what: str, rows: Mapping[tuple[str, str], "Sum"]) -> "RenderableType":
    from rich.table import Table

    table = Table("index", "device", what)
    for column in ("µs", "fraction", "GB/s", "GOP/s"):
        table.add_column(column, justify="right")
    total = sum(row.seconds for row in rows.values()) or 1.0
    for index, ((device, name), row) in enumerate(_sorted(rows)):
        speed = [f"{x / row.seconds / 1e9:.1f}" if x and row.seconds else "" for x in (row.nbytes, row.flops)]
        table.add_row(
            str(index), device, name, f"{row.seconds * 1e6:.0f}", f"{row.seconds / total:.4f}", *speed
        )
    return table


def _overhead(phase: "Phase") -> "RenderableType":
    from rich.table import Table

    table = Table("where the wall time is")
    for column in ("µs", "fraction"):
        table.add_column(column, justify="right")
    rows = {name: row.seconds for name, row in phase.overhead.items()}
    if not phase.is_predicted:
        rows = {"compute on CPU": sum(r.seconds for r in phase.ops.values()), **rows}
    for name, seconds in rows.items():
        table.add_row(name, f"{seconds * 1e6:.0f}", f"{seconds / phase.wall:.4f}")
    table.add_row("wall", f"{phase.wall * 1e6:.0f}", f"{sum(rows.values()) / phase.wall:.4f}")
    return table
