"""Described machines: how fast a host and its devices compute and copy, so that `sim` can predict."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from graphsched.graph.cost import Cost

Direction = Literal["up", "down"]
KINDS: Final = ("f32", "f16", "bf16", "int8")


@dataclass(frozen=True)
class Rates:
    """Operations/s of a product by the rows that each of its matrices is multiplied with, both of the same length."""

    rows: tuple[float, ...]
    rates: tuple[float, ...]

    def at(self, rows: float) -> float:
        """The rate at so many rows. Between two of them seconds lie on a line; outside the nearest rate holds."""
        seconds = tuple(n / rate for n, rate in zip(self.rows, self.rates, strict=True))
        place = min(max(bisect_left(self.rows, rows), 1), len(self.rows) - 1) if len(self.rows) > 1 else 0
        if not self.rows[0] < rows < self.rows[-1]:
            return self.rates[0 if rows <= self.rows[0] else -1]
        (a, b), (s, t) = self.rows[place - 1 : place + 1], seconds[place - 1 : place + 1]
        return rows / (s + (t - s) * (rows - a) / (b - a))


@dataclass(frozen=True)
class Processor:
    """A CPU or GPU: bytes, bytes/s, operations/s by kind of arithmetic, µs to start one op.

    The last three are of measured ones. products: measured rates by `Cost.product`, which take the place of kinds and
    bandwidth. near_bandwidth: bytes/s of ops without matrices, whose operands are in caches. run_us: work of a run
    before its first op and behind its last one.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    rates: Mapping[str, float]
    launch_us: float
    graph_us: float  # the same where a captured graph launches: the gap between two of its kernels
    products: Mapping[str, Rates] = field(default_factory=dict)
    near_bandwidth: float = 0.0
    run_us: float = 0.0


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
    """A host and its devices, of which a measured one may have none."""

    name: str
    host: Processor
    devices: tuple[Device, ...]


def node_seconds(processor: Processor, cost: Cost) -> float:
    """As its product was measured, else max(flops / rate, bytes / bandwidth); its launch comes on top."""
    measured = processor.products.get(cost.product)
    if measured is not None:
        return cost.flops / measured.at(cost.rows)
    bandwidth = processor.bandwidth if cost.product else processor.near_bandwidth or processor.bandwidth
    return max(cost.flops / processor.rates[cost.kind], cost.nbytes / bandwidth)


def copy_seconds(link: Link, nbytes: float, direction: Direction) -> float:
    """latency + bytes / rate of the direction"""
    return link.latency_us * 1e-6 + nbytes / (link.up if direction == "up" else link.down)
