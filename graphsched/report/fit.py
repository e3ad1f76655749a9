"""What --fit chose, and from what, as a table."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphsched.fit.fit import Fit


def render(found: Fit) -> RenderableType:
    """The candidates, the chosen one marked, and the flags that ask for it."""
    table = Table(
        "", "pp/s", "tg/s", "s", "fits", title=f"--fit for {found.chosen.goal}", title_justify="left"
    )
    for column in table.columns[1:4]:
        column.justify = "right"
    for one in found.judged:
        row = one.as_json()
        speeds = (f"{row[key]:.1f}" if row[key] else "" for key in ("prompt_per_second", "tokens_per_second"))
        style = "bold" if one is found.chosen else ""
        table.add_row(one.name, *speeds, f"{one.seconds:.3g}", "yes" if one.fits else "no", style=style)
    flags = found.flags or "none, as by default"
    return Group(table, Text(f"flags: {flags}", overflow="fold"), "")
