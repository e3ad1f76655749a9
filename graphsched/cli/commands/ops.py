"""`graphsched ops`: the op table, and which backends run which op on which types."""

import importlib
import json
from typing import TYPE_CHECKING, Any, Final

import click

from graphsched.cli.arguments import Command
from graphsched.cli.screen import show

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
    every = {name: _every_type(rows, name) for name in BACKENDS}
    show(_rendered([r for r in rows if r["declared"] or everything], every))
    for name, types in every.items():
        print(f"\nall types of {name}: {' '.join(types)}")
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


def _rendered(rows: list[dict[str, Any]], every: dict[str, list[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("number", "op", "computes", *BACKENDS, REFERENCE):
        grid.add_column(
            name, justify="right" if name == "number" else "left", no_wrap=name in ("number", "op")
        )
    for row in rows:
        cells = [str(row["number"]), row["name"], row["computes"] or "(not declared)"]
        cells += [_types(row["backends"].get(name), every[name]) for name in BACKENDS]
        cells.append("yes" if REFERENCE in row["backends"] else "")
        grid.add_row(*map(Text, cells), style="" if row["declared"] else "dim")
    return grid


def _every_type(rows: list[dict[str, Any]], backend: str) -> list[str]:
    """The types that a backend has a kernel for, in the order in which its products name them."""
    lowerings = [low for row in rows for low in row["backends"].get(backend, ())]
    lists = sorted((types for low in lowerings for types in low.values()), key=len, reverse=True)
    return list(dict.fromkeys(name for types in lists for name in types))


def _types(lowerings: list[dict[str, list[str]]] | None, every: list[str]) -> str:
    """What each operand may be, over all lowerings of an op: `w: all but Q4_0_R8`; "yes" where types do not matter."""
    if lowerings is None:
        return ""
    operands: dict[str, set[str]] = {}
    for low in lowerings:
        for operand, types in low.items():
            operands.setdefault(operand, set()).update(types)
    by_types: dict[str, list[str]] = {}
    for operand, found in operands.items():
        by_types.setdefault(_folded(found, every), []).append(operand)
    return "; ".join(f"{', '.join(names)}: {types}" for types, names in by_types.items()) or "yes"


def _folded(types: set[str], every: list[str]) -> str:
    """The list in words, or "all but" its complement, whichever is shorter."""
    lacking = [name for name in every if name not in types]
    if not lacking:
        return "all"
    named = [name for name in every if name in types]
    return f"all but {' '.join(lacking)}" if len(lacking) < len(named) else " ".join(named)
