"""`graphsched ops`: the op table, and which backends run which op on which types."""

import importlib
import json
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli.commands.arguments import Command
from graphsched.cli.commands.screen import show

if TYPE_CHECKING:
    from rich.table import Table

    from graphsched.graph.opdef import AnyOp, OpDef

BACKENDS: Final = ("cpu",)  # those that attach lowerings; the reference backend runs what has a reference
REFERENCE: Final = "reference"


@click.command(cls=Command, epilog="Example: graphsched ops --json")
@click.option("--all", "everything", is_flag=True, help="also the numbers that have no op yet")
@click.option("--json", "as_json", is_flag=True, help="as JSON, all numbers")
def command(everything: bool, as_json: bool) -> None:
    """List number, name and meaning of the ops, and which backends run them on which types.

    The numbers are those that -op takes. The reference backend runs an op on all types.
    """
    rows = table()
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    show(_rendered([r for r in rows if r["declared"] or everything]))
    missing = sum(not r["declared"] for r in rows)
    if missing and not everything:
        print(f"\n{missing} numbers have no op yet, --all lists them")


def table() -> list[dict[str, Any]]:
    """One row per number, by number."""
    import graphsched.graph.ops
    from graphsched.arch import registry as arch
    from graphsched.graph.opdef import OPS, every_op

    assert graphsched.graph.ops.__all__  # importing it declares the ops
    for name in BACKENDS:
        importlib.import_module(f"graphsched.backends.{name}")  # attaches its lowerings
    arch.import_installed()  # declares the ops of other packages
    return [_row(op, OPS.get(op)) for op in every_op()]


def _row(op: "AnyOp", made: "OpDef[Any] | None") -> dict[str, Any]:
    row = {"number": int(op), "name": op.name, "declared": made is not None}
    if made is None:
        return row | {"computes": "", "operands": [], "backends": {}}
    backends: dict[str, Any] = {}
    for name in BACKENDS:
        if lowerings := made.lowerings.get(name):
            backends[name] = [
                {operand: [t.name for t in types] for operand, types in lowering.types.items()}
                for lowering in lowerings
            ]
    if made.run_reference is not None:
        backends[REFERENCE] = [{}]
    computes = " ".join(made.doc.split("\n\n")[0].split())
    return row | {"computes": computes, "operands": list(made.operands), "backends": backends}


def _rendered(rows: list[dict[str, Any]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("number", "op", "computes", *BACKENDS, REFERENCE):
        grid.add_column(
            name, justify="right" if name == "number" else "left", no_wrap=name in ("number", "op")
        )
    for row in rows:
        cells = [str(row["number"]), row["name"], row["computes"] or "(not declared)"]
        cells += [_types(row["backends"].get(name)) for name in BACKENDS]
        cells.append("yes" if REFERENCE in row["backends"] else "")
        grid.add_row(*map(Text, cells), style="" if row["declared"] else "dim")
    return grid


def _types(lowerings: list[dict[str, list[str]]] | None) -> str:
    """`w: F32 F16; x: F32`, one line for each lowering."""
    if lowerings is None:
        return ""
    lines = [
        "; ".join(f"{operand}: {' '.join(types)}" for operand, types in low.items()) for low in lowerings
    ]
    return "\n".join(dict.fromkeys(line or "yes" for line in lines))
