"""The interface of executables to a session, and the callbacks that make them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.arch.stored import EMBEDDING
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.run.executable import Executable
from graphsched.schedule.scheduler import Schedule
from graphsched.types.shapes import TensorType


class Runnable(Protocol):
    """A schedule that can be run: an executable, or one in a wrapper."""

    @property
    def outputs(self) -> tuple[NDArray[Any], ...]:
        """Results of the last run, cut to its actual lengths; valid until the next run."""

    def run(self, lengths: Mapping[str, int]) -> None:
        """Runs with actual lengths (`n_tokens`, `n_outputs`, `n_kv`) up to the graph's capacities."""


@dataclass(frozen=True)
class PlanFactory:
    """Callbacks that schedule and compile a graph for given lengths, and the data that validation reads.

    input gives an input's host array, weights and types what the file holds, is_aborted whether a run ended early.
    """

    schedule: Callable[[Graph], Schedule]
    compile: Callable[[Schedule], Executable]
    input: Callable[[Tensor], NDArray[Any]]
    weights: Mapping[str, NDArray[np.uint8]]
    types: Mapping[str, TensorType]
    is_aborted: Callable[[], bool]

    def weight(self, leaf: Tensor) -> NDArray[Any]:
        """A weight's values as references read them, from the type that the file has it in."""
        stored = self.types.get(leaf.name) or self.types[EMBEDDING]  # a tied output is the embedding
        return stored.dtype.dequantize(self.weights[leaf.name], tuple(leaf.shape))
