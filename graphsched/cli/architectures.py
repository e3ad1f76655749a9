"""What `graphsched models` shows: the architectures and what each needs, as plain data and as text."""

import json
import sys
from dataclasses import asdict
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from graphsched.arch import registry
from graphsched.arch.registry import Architecture
from graphsched.errors import LoadError, OptionError
from graphsched.gguf.loader import open_model
from graphsched.graph.opdef import OPS, every_op
from graphsched.session.model import Model
from graphsched.session.needs import keys_of, missing_keys, needs_of

if TYPE_CHECKING:
    from rich.table import Table

BACKENDS: Final = ("cpu", "cuda")
RECORD: Final = Path(__file__).resolve().parents[1] / "data" / "architectures.json"
Row = dict[str, Any]


@cache
def recorded() -> dict[str, Row]:
    """What `tools/architectures_page.py` has found the architectures that ship to need: tensors, ops, what is kept."""
    found: dict[str, Row] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def every() -> list[Row]:
    """A row for each architecture, by name."""
    return [of_name(name) for name in registry.names()]


def of_name(name: str) -> Row:
    """What an architecture needs. OptionError with the nearest names for an unknown one."""
    if name not in registry.names():
        near = ", ".join(registry.nearest(name))
        raise OptionError(f"no such architecture {name}; nearest are {near}")
    return _row(registry.get(name, name), recorded().get(name))


def of_file(path: Path, name: str | None = None) -> Row:
    """What the architecture of a file needs, by the file's own graph, and what the file lacks of it.

    OptionError if it is another one than `name`. A file that cannot be run is told by what it lacks.
    """
    with open_model(path, header_only=True) as file:
        found = file.get("general.architecture", str)
        if name not in (None, found):
            raise OptionError(f"{path.name} is of architecture {found}, not {name}")
        architecture, lacks = registry.get(found, path.name), []
        try:
            needs: Row | None = asdict(needs_of(Model(file)))
        except LoadError as error:
            needs, lacks = recorded().get(found), [*missing_keys(keys_of(architecture), file.metadata)]
            lacks = lacks or [str(error)]
    return _row(architecture, needs) | {"file": path.name, "lacks": lacks}


def _row(architecture: Architecture, needs: Row | None) -> Row:
    doc = sys.modules[architecture.build.__module__].__doc__ or ""
    row: Row = {"name": architecture.name, "what": doc.strip().partition("\n")[0]}
    row["keys"] = [asdict(key) for key in keys_of(architecture)]
    if needs is None:  # of another package
        return row | {"tensors": None, "optional": None, "ops": None, "keeps": None, "missing": None}
    ops = {op: [b for b in BACKENDS if op in _kernels()[b]] for op in needs["ops"]}
    missing = [f"{b}: {op}" for b in BACKENDS for op, there in ops.items() if b not in there]
    return row | {**needs, "ops": ops, "missing": missing}


@cache
def _kernels() -> dict[str, frozenset[str]]:
    """Names of the ops that a backend has a kernel for."""
    import_module("graphsched.backends.cpu")
    import_module("graphsched.backends.cuda.families").attach()
    made = {op.name: OPS[op] for op in every_op() if op in OPS}
    return {b: frozenset(name for name, op in made.items() if b in op.lowerings) for b in BACKENDS}


# ---- as text


def listed(rows: list[Row]) -> "Table":
    """A line for each: name, what it is, what is kept of a sequence, what is missing."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("architecture", "what", "keeps", "runs on the host"):
        grid.add_column(title, no_wrap=title == "architecture")
    for row in rows:
        keeps = "?" if row["keeps"] is None else "; ".join(row["keeps"]) or "nothing"
        grid.add_row(*map(Text, (row["name"], row["what"], keeps, ", ".join(row["missing"] or ()))))
    return grid


def described(row: Row) -> str:
    """All that one architecture needs."""
    required = [key["name"] for key in row["keys"] if key["default"] is None]
    given = [f"{key['name']} ({key['default']})" for key in row["keys"] if key["default"] is not None]
    lines = [
        f"{row['name']}: {row['what']}",
        _line("required keys", required),
        _line("keys with defaults", given),
    ]
    if row["tensors"] is None:
        return "\n".join([*lines, "tensors and ops: those of a file, -m FILE"])
    lines += [_line("tensors", row["tensors"]), _line("tensors that may be there", row["optional"])]
    by_devices: dict[str, list[str]] = {}
    for op, there in row["ops"].items():
        by_devices.setdefault(" and ".join(there) or "no device", []).append(op)
    lines += [_line(f"ops with kernels for {where}", names) for where, names in by_devices.items()]
    lines.append(_line("kept of a sequence", row["keeps"]))
    if "file" in row:
        lines.append(_line(f"{row['file']} lacks", row["lacks"]))
    return "\n".join(lines)


def _line(title: str, names: list[str]) -> str:
    return f"{title}: {', '.join(names) or 'nothing'}"
