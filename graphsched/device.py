"""What a backend offers: open a runtime, compile graphs for it, run them. Backends are found by name."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError
from graphsched.graph import Graph
from graphsched.scheduler import Schedule
from graphsched.tensor import Extent, Tensor

Raw = NDArray[np.uint8]
Progress = Callable[[str, int, int], None]  # what, done, total

KNOWN = ("cpu", "reference")
INTERNAL = ("null",)  # plans, and does not compute


class Executable(Protocol):
    """A graph ready to run."""

    @property
    def outputs(self) -> tuple[NDArray[Any], ...]:
        """Results of the last run, cut to its actual lengths; valid until the next run."""

    def run(self, lengths: Mapping[str, int]) -> None:
        """Runs with actual lengths (`n_tokens`, `n_outputs`, `n_kv`) up to the graph's capacities."""

    def traced(self, lengths: Mapping[str, int]) -> Any:
        """(optional) Runs and returns an object whose steps() tell when each step ran; None where nothing is known."""


class Runtime(Protocol):
    """Weights, inputs and caches of one session on one backend."""

    def input(self, leaf: Tensor) -> NDArray[Any]:
        """The host array that feeds an input, at its largest capacity."""

    def in_kernel_types(self, graph: Graph) -> Graph:
        """The graph over weights of types that the backend has kernels for."""

    def compile(self, plan: Graph | Schedule, progress: Progress | None = None) -> Executable:
        """A graph (all on the host) or a schedule, ready to run."""

    def abort(self, on: bool) -> None:
        """Makes a run in progress end early (called from another thread), or allows runs again."""


@dataclass(frozen=True)
class Setup:
    """What a runtime is opened over.

    weights: raw bytes by tensor name. capacities: the largest length of each extent, which sizes inputs and caches.
    sims: names of simulated devices. poison: fill memory with NaN before each run, so that a missing copy shows.
    """

    weights: Mapping[str, Raw]
    capacities: Mapping[str, int] = field(default_factory=dict)
    n_threads: int = 1
    sims: tuple[str, ...] = ()
    poison: bool = False


Backend = Callable[[Setup], Runtime]  # opens a runtime


def get(name: str) -> Backend:
    """The backend by name; its module is imported on use."""
    if name not in KNOWN + INTERNAL:
        raise OptionError(f"no backend {name!r}; there are {', '.join(KNOWN)}")
    module = importlib.import_module(f"graphsched.backends.{name}")
    return module.open_runtime


def gpu_reason() -> str | None:
    """Why no GPU can be used, in one sentence, or None when one can."""
    driver = importlib.import_module("graphsched.backends.cuda.driver")
    return driver.probe()


@dataclass(frozen=True)
class Capacity:
    """Resolves extents in shapes: to capacities when memory is made, to actual lengths when results are read."""

    lengths: Mapping[str, int]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(self.lengths.get(d.word, int(d)) if isinstance(d, Extent) else int(d) for d in shape)
