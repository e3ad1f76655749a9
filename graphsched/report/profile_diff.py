"""Two profiles side by side, as tables."""

from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsched.measure.profile_data import Data
from graphsched.measure.profile_diff import TABLES
from graphsched.report.profile import micro, new_table

SAME: Final = 5e-4  # of the time: less is rounding


def render_difference(change: Data, names: tuple[str, str], plain: bool) -> RenderableType:
    """Tables of all rows that changed."""
    parts: list[RenderableType] = [Text(f"{name}: {a} -> {b}") for name, (a, b) in change["settings"].items()]
    for phase in change["phases"]:
        wall = phase["wall"]
        parts.append(
            Text(f"\n{phase['phase']}: {micro(wall['first'])} -> {micro(wall['second'])} µs, {_change(wall)}")
        )
        parts += [_table(phase[key], title, names, plain) for key, title in TABLES.items() if phase[key]]
    return Group(*parts)


def _table(rows: list[Data], what: str, names: tuple[str, str], plain: bool) -> Table:
    columns = ("device", what, f"{names[0]} µs", f"{names[1]} µs", "change µs", "noise µs", "change")
    table = new_table("", plain, *columns, left=("device", what))
    for row in rows:
        if not (row["first"] or row["second"]):
            continue
        cells = (micro(row[key]) for key in ("first", "second"))
        change, noise = f"{row['change'] * 1e6:+.1f}", f"{row['noise'] * 1e6:.1f}"
        table.add_row(row["device"], Text(row["name"]), *cells, change, noise, _change(row))
    return table


def _change(row: Data) -> str:
    """+12.3%, or that noise may explain it."""
    if not row["first"]:
        return "new"
    if abs(row["change"]) < SAME * row["first"]:
        return "same"
    text = f"{row['change'] / row['first']:+.1%}"
    return text if row["is_clear"] else f"{text}, within noise"
