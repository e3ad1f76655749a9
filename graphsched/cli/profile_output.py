"""Output of `graphsched profile`: tables, JSON or CSV of a profile or of the difference of two."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphsched.cli.screen import is_terminal, show
from graphsched.cli.tables import Row, comma_separated, json_object

if TYPE_CHECKING:
    from graphsched.measure.profile_data import Data


def report(first: "Data", other: "Data | None", names: tuple[str, str], as_json: bool, as_csv: bool) -> None:
    """The profile, or what is different in the other one, in the form that was asked for."""
    plain = not is_terminal(sys.stdout)
    if other is not None:
        from graphsched.measure.profile_diff import difference
        from graphsched.report.profile_diff import render_difference

        change = difference(first, other)
        if as_csv:
            comma_separated(difference_rows(change))
        elif as_json:
            json_object(change)
        else:
            show(render_difference(change, names, plain))
    elif as_csv:
        comma_separated(csv_rows(first))
    elif as_json:
        json_object(first)
    else:
        from graphsched.report.profile import render

        show(render(first, plain))


def difference_rows(change: "Data") -> Iterator[Row]:
    """The rows of all tables of a comparison."""
    for phase in change["phases"]:
        tables = {"wall": [phase["wall"]], **{k: v for k, v in phase.items() if isinstance(v, list)}}
        for table, rows in tables.items():
            for row in rows:
                times = {f"{k}_us": row[k] * 1e6 for k in ("first", "second", "change", "noise")}
                yield {
                    "phase": phase["phase"],
                    "table": table,
                    "device": row["device"],
                    "name": row["name"],
                    **times,
                }


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
