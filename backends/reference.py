"""The reference backend: runs the numpy references in order. The oracle for every other backend."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched import dtypes
from graphsched.device import Capacity, Progress, Setup
from graphsched.graph import Graph
from graphsched.scheduler import Schedule
from graphsched.tensor import Tensor

Array = NDArray[Any]


def zeros(leaf: Tensor, capacities: Mapping[str, int]) -> Array:
    """An input or cache as the references see it: integers, or float32 whatever the stored type."""
    kind = np.int32 if leaf.dtype == dtypes.I32 else np.float32
    return np.zeros(Capacity(capacities).shape(leaf.shape), kind)


@dataclass
class ReferenceRuntime:
    setup: Setup
    arrays: dict[str, Array] = field(default_factory=dict)
    aborted: bool = False

    def input(self, leaf: Tensor) -> Array:
        return self.leaf(leaf)

    def leaf(self, leaf: Tensor) -> Array:
        """A leaf's values; weights are dequantised once and kept."""
        if leaf.name not in self.arrays:
            if leaf.kind == "weight":
                self.arrays[leaf.name] = leaf.dtype.dequantize(
                    self.setup.weights[leaf.name], tuple(leaf.shape)
                )
            else:
                self.arrays[leaf.name] = zeros(leaf, self.setup.capacities)
        return self.arrays[leaf.name]

    def in_kernel_types(self, graph: Graph) -> Graph:
        return graph

    def compile(self, plan: Graph | Schedule, progress: Progress | None = None) -> "ReferenceExecutable":
        return ReferenceExecutable(self, plan.graph if isinstance(plan, Schedule) else plan)

    def abort(self, on: bool) -> None:
        self.aborted = on


@dataclass
class ReferenceExecutable:
    runtime: ReferenceRuntime
    graph: Graph
    outputs: tuple[Array, ...] = ()

    def run(self, lengths: Mapping[str, int]) -> None:
        actual = Capacity(lengths)
        values: dict[Tensor, Array] = {}
        for leaf in self.graph.leaves:
            whole = self.runtime.leaf(leaf)
            n = actual.shape(leaf.shape)[0] if leaf.shape else 0
            values[leaf] = whole if leaf.kind == "weight" else whole[:n]
        for node in self.graph.nodes:
            if self.runtime.aborted:
                break
            values[node] = evaluate(node, [values[s] for s in node.sources], actual)
        self.outputs = tuple(values[o] for o in self.graph.outputs if o in values)

    def traced(self, lengths: Mapping[str, int]) -> None:
        self.run(lengths)


def evaluate(node: Tensor, sources: list[Array], actual: Capacity) -> Array:
    """One node by its reference; capacities in attributes become actual lengths."""
    assert node.opdef is not None
    assert node.opdef.run_reference is not None
    attrs = {k: actual.shape(v) if isinstance(v, tuple) else v for k, v in node.attrs.items()}
    return node.opdef.run_reference(*sources, **attrs)


open_runtime = ReferenceRuntime
