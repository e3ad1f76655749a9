"""Described machines: how fast a host and its devices compute and copy, so that `sim` can predict."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from graphsched.errors import OptionError
from graphsched.gguf.format import printable

Direction = Literal["up", "down"]
KINDS: Final = ("f32", "f16", "bf16", "int8")
_FOLDER: Final = Path(__file__).resolve().parents[1] / "data" / "machines"
_PREFIX: Final = "sim:"
_LARGEST_FILE: Final = 1 << 20
_LARGEST_NUMBER: Final = 1e21


@dataclass(frozen=True)
class Processor:
    """A CPU or GPU: bytes, bytes/s, operations/s by kind of arithmetic, µs to start one op."""

    name: str
    memory_bytes: int
    bandwidth: float
    rates: Mapping[str, float]
    launch_us: float
    graph_us: float  # the same where a captured graph launches: the gap between two of its kernels


@dataclass(frozen=True)
class Link:
    """What connects a device with the host: bytes/s to the device and back, µs per copy."""

    up: float
    down: float
    latency_us: float


@dataclass(frozen=True)
class Device:
    processor: Processor
    link: Link


@dataclass(frozen=True)
class Machine:
    name: str
    host: Processor
    devices: tuple[Device, ...]


def node_seconds(processor: Processor, flops: float, nbytes: float, kind: str) -> float:
    """max(flops / rate, bytes / bandwidth); its launch comes on top"""
    return max(flops / processor.rates[kind], nbytes / processor.bandwidth)


def copy_seconds(link: Link, nbytes: float, direction: Direction) -> float:
    """latency + bytes / rate of the direction"""
    return link.latency_us * 1e-6 + nbytes / (link.up if direction == "up" else link.down)


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
        key, value = self.take(name)
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
    devices = tuple(_device(t) for t in table.tables("device"))
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
    return Processor(table.text("name"), memory, bandwidth, by_kind, launch, graph)
