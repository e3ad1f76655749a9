"""The critical path of a plan's prediction as a table."""

from typing import Any

from rich.table import Table

from graphsched.errors import OptionError
from graphsched.predict.critical import critical_path, shares
from graphsched.predict.plan import Plan
from graphsched.report.profile import micro


def path_data(plan: Plan) -> dict[str, Any]:
    """The path by lane and op, seconds, and the whole. OptionError without a prediction."""
    if plan.timeline is None:
        raise OptionError("--critical-path needs a prediction: --device sim:NAME names a described machine")
    rows = [share.__dict__ for share in shares(critical_path(plan.timeline))]
    return {"wall": plan.timeline.wall, "rows": rows}


def path_table(found: dict[str, Any]) -> Table:
    """The same as a table."""
    table = Table(title="critical path", title_justify="left")
    table.add_column("lane")
    table.add_column("what")
    for column in ("times", "µs", "of the time"):
        table.add_column(column, justify="right")
    for row in found["rows"]:
        share = f"{row['seconds'] / found['wall']:.1%}"
        table.add_row(row["lane"], row["what"], str(row["count"]), micro(row["seconds"]), share)
    return table
