"""Files that describe machines: TOML, shipped with graphsched or written by `graphsched measure`."""

import json
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from graphsched.errors import OptionError
from graphsched.gguf.format import printable
from graphsched.machine.machine import KINDS, Device, Link, Machine, Processor, Rates

_FOLDER: Final = Path(__file__).resolve().parents[1] / "data" / "machines"
_PREFIX: Final = "sim:"
_LARGEST_FILE: Final = 1 << 20
_LARGEST_NUMBER: Final = 1e21


def names() -> list[str]:
    """The machines that ship with graphsched."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(spec: str | Path) -> Machine:
    """The machine of `sim:NAME`, or one described in a TOML file, whose path ends in .toml."""
    text = str(spec).removeprefix(_PREFIX)
    if text in names():
        return read(_FOLDER / f"{text}.toml")
    if not text.endswith(".toml"):
        there = ", ".join(f"{_PREFIX}{name}" for name in names())
        raise OptionError(f"no machine {printable(text) or 'is named'}; there are {there}, or a .toml file")
    return read(Path(text))


def read(path: Path) -> Machine:
    """The machine that a TOML file describes."""
    file = printable(path.name)
    return _machine(_Table(_parsed(path, file), file, ""))


def _parsed(path: Path, file: str) -> dict[str, Any]:
    try:
        with path.open("rb") as f:
            data = f.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise OptionError(f"{file}: more than {_LARGEST_FILE} bytes for a machine")
        return tomllib.loads(data.decode())
    except OSError as e:
        raise OptionError(f"{printable(str(path))}: {(e.strerror or str(e)).lower()}") from None
    except (
        ValueError,
        RecursionError,
    ) as e:  # also of numbers with too many digits, and of text not in UTF-8
        raise OptionError(f"{file}: not a TOML file, {e}") from None


class _Table:
    """A table of the file; values are taken out one by one, so that what remains is unknown."""

    def __init__(self, values: Any, file: str, place: str) -> None:
        self.file, self.place = file, place
        if not isinstance(values, dict):
            raise self.error(place, values, "a table")
        self.left = dict(values)

    def error(self, key: str, value: Any, needed: str) -> OptionError:
        kinds = {dict: "a table", list: "a list", bool: str(value).lower()}
        shown = printable(kinds.get(type(value), str(value)))
        return OptionError(f"{self.file}: key {key} is {shown[:40] or 'empty'}, {needed} is needed")

    def take(self, name: str) -> tuple[str, Any]:
        """Takes a key out: its full name, and its value."""
        key = f"{self.place}.{name}" if self.place else name
        if name not in self.left:
            raise OptionError(f"{self.file}: key {key} is missing")
        return key, self.left.pop(name)

    def table(self, name: str) -> "_Table":
        key, value = self.take(name)
        return _Table(value, self.file, key)

    def tables(self, name: str) -> list["_Table"]:
        key, value = self.take(name)
        if not isinstance(value, list) or not value:
            raise self.error(key, value, f"at least one table [[{key}]]")
        return [_Table(v, self.file, f"{key}[{i}]") for i, v in enumerate(value)]

    def text(self, name: str) -> str:
        key, value = self.take(name)
        if not isinstance(value, str) or not value or not value.isprintable():
            raise self.error(key, value, "a text")
        return value

    def number(self, name: str) -> float:
        return self._number(*self.take(name))

    def numbers(self, name: str) -> tuple[float, ...]:
        key, value = self.take(name)
        if not isinstance(value, list) or not value:
            raise self.error(key, value, "a list of numbers")
        return tuple(self._number(f"{key}[{i}]", v) for i, v in enumerate(value))

    def _number(self, key: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 < value <= _LARGEST_NUMBER:
            raise self.error(key, value, f"a number above 0 and up to {_LARGEST_NUMBER:g}")
        return float(value)

    def done(self) -> None:
        for name in self.left:
            key = f"{self.place}.{name}" if self.place else name
            raise OptionError(f"{self.file}: key {printable(key)} is unknown")


def _machine(table: _Table) -> Machine:
    host = _processor(host_table := table.table("host"))
    host_table.done()
    # Only a measured host has enough of a machine in itself.
    devices = (
        tuple(_device(t) for t in table.tables("device"))
        if "device" in table.left or not host.products
        else ()
    )
    name = table.text("name")
    table.done()
    return Machine(name, host, devices)


def _device(table: _Table) -> Device:
    processor = _processor(table)
    link = table.table("link")
    made = Device(processor, Link(link.number("up"), link.number("down"), link.number("latency_us")))
    link.done()
    table.done()
    return made


def _processor(table: _Table) -> Processor:
    rates = table.table("rates")
    by_kind = {kind: rates.number(kind) for kind in KINDS}
    rates.done()
    memory, bandwidth = int(table.number("memory_bytes")), table.number("bandwidth")
    launch = table.number("launch_us")
    graph = table.number("graph_us") if "graph_us" in table.left else launch
    near, run = (table.number(key) if key in table.left else 0.0 for key in ("near_bandwidth", "run_us"))
    products = dict(_product(t) for t in table.tables("product")) if "product" in table.left else {}
    return Processor(table.text("name"), memory, bandwidth, by_kind, launch, graph, products, near, run)


def _product(table: _Table) -> tuple[str, Rates]:
    """A measured product: its name, and what it reaches."""
    name, rows, rates = table.text("name"), table.numbers("rows"), table.numbers("rates")
    if len(rows) != len(rates) or any(a >= b for a, b in pairwise(rows)):
        raise table.error(f"{table.place}.rows", "not in order, or not as many as rates", "a rising list")
    table.done()
    return name, Rates(rows, rates)


def text_of(machine: Machine) -> str:
    """A host without devices as a file that `read` reads."""
    h = machine.host
    lines = [f"name = {_quoted(machine.name)}", "", "[host]", f"name = {_quoted(h.name)}"]
    lines += [f"memory_bytes = {h.memory_bytes}", f"bandwidth = {h.bandwidth:.4g}"]
    lines += [
        f"{key} = {getattr(h, key):.4g}" for key in ("launch_us", "graph_us", "near_bandwidth", "run_us")
    ]
    lines += ["", "[host.rates]", *(f"{kind} = {rate:.4g}" for kind, rate in h.rates.items())]
    for name, measured in h.products.items():
        rows, rates = (", ".join(f"{v:.4g}" for v in values) for values in (measured.rows, measured.rates))
        lines += ["", "[[host.product]]", f"name = {_quoted(name)}", f"rows = [{rows}]", f"rates = [{rates}]"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
