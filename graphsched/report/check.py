"""A plan beside a run of it, as a table."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsched.measure.check import Check, Compared
from graphsched.report.profile import micro

LEAST = 0.002  # of the wall time: shorter rows are added up in one


def render(check: Check) -> RenderableType:
    """A row for each op, copy and wait, longest first, and the whole; an error is the prediction's."""
    table = Table(title="predicted and measured", title_justify="left")
    table.add_column("device")
    table.add_column("what")
    for column in ("predicted µs", "measured µs", "in barriers", "error", "of the error"):
        table.add_column(column, justify="right")
    wall = check.wall
    least = LEAST * max(wall.measured, wall.predicted)
    shown = [row for row in check.rows if max(row.measured, row.predicted) >= least]
    rest = [row for row in check.rows if row not in shown]
    for row in (*shown, *([_sum(rest)] if rest else [])):
        table.add_row(*_cells(row, wall))
    table.add_section()
    table.add_row(*_cells(Compared("", "all", wall.predicted, wall.measured), wall))
    return Group(table, Text(_sentence(check)))


def _sum(rows: list[Compared]) -> Compared:
    sums = (sum(getattr(row, name) for row in rows) for name in ("predicted", "measured", "barriers"))
    return Compared("", f"{len(rows)} others", *sums)


def _cells(row: Compared, wall: Compared) -> tuple[str, ...]:
    error = "" if row.error is None else f"{row.error:+.0%}"
    share = (row.predicted - row.measured) / wall.measured
    barriers = micro(row.barriers) if row.barriers else ""
    return row.lane, row.what, micro(row.predicted), micro(row.measured), barriers, error, f"{share:+.1%}"


def _sentence(check: Check) -> str:
    n, wall = check.n_tokens, check.wall
    speeds = f"predicted {n / wall.predicted:.1f} tokens/s, measured {n / wall.measured:.1f}"
    return f"{speeds}: the prediction is {wall.predicted / wall.measured - 1:+.1%} of the time off"
