"""`--what-if link=2x,sync=0`: a described machine with other links, rates or memory."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from graphsched.errors import OptionError
from graphsched.gguf.format import printable
from graphsched.machine.machine import Device, Machine, Processor, Rates
from graphsched.option import is_not

_VALUE: Final = re.compile(r"([+-]?)(\d+(?:\.\d+)?|\.\d+)(x|GB/s|GB|us|µs)?")


@dataclass(frozen=True)
class Change:
    """One changed quantity: times `factor`, or that plus `added`; a factor of 0 sets it. In GB/s, GB or µs."""

    name: str
    text: str
    factor: float
    added: float

    def of(self, value: float, unit: float) -> float:
        """The changed value of one that counts in units."""
        return max(self.factor * value + self.added * unit, 0.0)

    def __str__(self) -> str:
        return f"{self.name}={self.text}"


def parse_changes(given: Any) -> tuple[Change, ...]:
    """The changes that a text names. OptionError for an unknown name, and for a value that is none."""
    if isinstance(given, tuple) and all(isinstance(change, Change) for change in given):
        return given
    if not isinstance(given, str):
        raise is_not(given, "a text as link=2x,sync=0")
    return tuple(_parsed(part.strip()) for part in given.split(",")) if given else ()


def typed(changes: tuple[Change, ...]) -> str:
    """The text of changes."""
    return ",".join(map(str, changes))


def _parsed(text: str) -> Change:
    name, _, value = text.partition("=")
    if name not in CHANGES:
        raise OptionError(f"has {printable(name) or 'nothing'}, which is none of {', '.join(CHANGES)}")
    match = _VALUE.fullmatch(value)
    unit = UNITS[name]
    if (
        match is None
        or (match[3] or unit).replace("µ", "u") not in (unit, "x")
        or (match[1] and match[3] == "x")
    ):
        examples = "2x" if not unit else f"2x, 10{unit} or +10{unit}"
        raise OptionError(f"has {printable(text)}, a value as {examples} is needed")
    sign, number = match[1], float(match[2])
    if match[3] == "x":
        return Change(name, value, number, 0.0)
    if not unit:
        raise OptionError(f"has {printable(text)}, a factor as 2x is needed")
    return Change(name, value, float(bool(sign)), -number if sign == "-" else number)


def changed(machine: Machine, changes: tuple[Change, ...]) -> Machine:
    """A machine with changes, whose name says so. OptionError where a rate or memory would be 0."""
    for change in changes:
        machine = CHANGES[change.name](machine, change)
    if not changes:
        return machine
    parts = [machine.host, *(d.processor for d in machine.devices)]
    rates = [rate for p in parts for rate in (p.bandwidth, p.memory_bytes, *p.rates.values())]
    if min((*rates, *(r for d in machine.devices for r in (d.link.up, d.link.down)))) <= 0:
        raise OptionError(f"is {typed(changes)}: nothing computes or copies at 0", "what_if")
    return replace(machine, name=f"{machine.name}, {typed(changes)}")


def _of_links(**fields: float) -> Callable[[Machine, Change], Machine]:
    """Changes fields of all links; of each the unit in which the change counts."""

    def apply(machine: Machine, change: Change) -> Machine:
        devices = [replace(d, link=_with(d.link, change, fields)) for d in machine.devices]
        return replace(machine, devices=tuple(devices))

    return apply


def _of_devices(**fields: float) -> Callable[[Machine, Change], Machine]:
    def apply(machine: Machine, change: Change) -> Machine:
        devices = [Device(_processor(d.processor, change, fields), d.link) for d in machine.devices]
        return replace(machine, devices=tuple(devices))

    return apply


def _of_host(**fields: float) -> Callable[[Machine, Change], Machine]:
    return lambda machine, change: replace(machine, host=_processor(machine.host, change, fields))


def _with(value: Any, change: Change, fields: Mapping[str, float]) -> Any:
    return replace(value, **{name: change.of(getattr(value, name), unit) for name, unit in fields.items()})


def _processor(processor: Processor, change: Change, fields: Mapping[str, float]) -> Processor:
    """A processor with changed fields; `rates` are those of all kinds and products."""
    numbers = {name: unit for name, unit in fields.items() if name != "rates"}
    processor = _with(processor, change, numbers)
    processor = replace(processor, memory_bytes=int(processor.memory_bytes))
    if "rates" not in fields:
        return processor
    rates = {kind: change.of(rate, 1) for kind, rate in processor.rates.items()}
    products = {
        name: Rates(r.rows, tuple(change.of(rate, 1) for rate in r.rates))
        for name, r in processor.products.items()
    }
    return replace(processor, rates=rates, products=products)


# What can be changed, and in which unit a number counts; without one there are factors only.
CHANGES: Final[Mapping[str, Callable[[Machine, Change], Machine]]] = {
    "link": _of_links(up=1e9, down=1e9),
    "up": _of_links(up=1e9),
    "down": _of_links(down=1e9),
    "sync": _of_links(latency_us=1),
    "vram": _of_devices(memory_bytes=1e9),
    "device": _of_devices(bandwidth=1, rates=1),
    "launch": _of_devices(launch_us=1, graph_us=1),
    "ram": _of_host(memory_bytes=1e9),
    "memory": _of_host(bandwidth=1e9),
    "host": _of_host(bandwidth=1, near_bandwidth=1, rates=1),
    "barrier": _of_host(launch_us=1, graph_us=1),
    "python": _of_host(run_us=1),
}
UNITS: Final = {
    **dict.fromkeys(("link", "up", "down", "memory"), "GB/s"),
    **dict.fromkeys(("vram", "ram"), "GB"),
    **dict.fromkeys(("sync", "launch", "barrier", "python"), "us"),
    **dict.fromkeys(("device", "host"), ""),
}
