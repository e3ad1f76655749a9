"""This machine as a described one, by the speed of our own kernels: what `graphsched measure` writes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Final

from graphsched.machine.kept import cpu_name, name_of
from graphsched.machine.machine import Machine, Processor, Rates
from graphsched.measure.host_work import host_work
from graphsched.measure.peaks import host_peaks
from graphsched.measure.products import ROWS, Speed, attention_speed, near_speed, product_speed, step_speed
from graphsched.session.options import physical_memory
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

TYPES: Final = ("F16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "IQ2_BN")
CACHES: Final = ("F16", "Q8_0")
QUERIES: Final = (1, 4, 16, 64, 256, 512)
BUSY: Final = 1.15  # medians this much longer than the shortest run mean that others use the machine
_FLOATS: Final = frozenset({"F32", "F16", "BF16"})
_FEW: Final = 32  # rows from which float products are bound by arithmetic, whose rate no longer changes

Progress = Callable[[str, int, int], None]
Task = tuple[str, Callable[[], Speed]]


@dataclass(frozen=True)
class Measured:
    """A machine without devices, and how much longer measurements took than their shortest runs, by the median."""

    machine: Machine
    spread: float

    @property
    def is_busy(self) -> bool:
        """Whether other programs were running."""
        return self.spread > BUSY


def measure(
    n_threads: int, types: Iterable[DType], progress: Progress, known: Machine | None = None
) -> Measured:
    """Measures this machine's CPU with so many threads: products of weights of these types, attention, steps, Python.

    known: an earlier measurement, of which the products of other types are kept.
    """
    tasks = list(_tasks(n_threads, types))
    speeds = []
    for i, (name, task) in enumerate(tasks):
        progress(f"measuring {name}, {n_threads} threads", i, len(tasks))
        speeds.append(task())
    progress("measuring Python", len(tasks), len(tasks))
    near, step, *products = speeds
    host = _host(n_threads, near, step, products)
    kept = dict(known.host.products) if known else {}
    host = replace(host, products=kept | dict(host.products))
    return Measured(Machine(name_of(n_threads), host, ()), median(s.spread for s in speeds))


def _tasks(n_threads: int, types: Iterable[DType]) -> Iterator[Task]:
    yield "steps", partial(near_speed, n_threads)
    yield "steps", partial(step_speed, n_threads)
    for dtype in types:
        for rows in ROWS:
            if dtype.name not in _FLOATS or rows <= _FEW:
                yield dtype.name, partial(product_speed, dtype, rows, n_threads)
    for name in CACHES:
        for rows in QUERIES:
            yield f"attention {name}", partial(attention_speed, dtypes.by_name(name), rows, n_threads)


def _host(n_threads: int, near: Speed, step: Speed, products: list[Speed]) -> Processor:
    peaks, step_us = host_peaks(n_threads), step.seconds * 1e6
    return Processor(
        cpu_name(),
        physical_memory(),
        peaks["bandwidth"],
        {kind: peaks[kind] for kind in ("f32", "f16", "bf16", "int8")},
        step_us,
        step_us,
        _by_name(products),
        near.cost.nbytes / near.seconds,
        host_work(n_threads) * 1e6,
    )


def _by_name(speeds: list[Speed]) -> dict[str, Rates]:
    found: dict[str, list[Speed]] = {}
    for speed in speeds:
        found.setdefault(speed.cost.product, []).append(speed)
    return {
        name: Rates(tuple(s.cost.rows for s in of_it), tuple(s.cost.flops / s.seconds for s in of_it))
        for name, of_it in found.items()
    }
