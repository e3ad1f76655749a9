"""Copies inside of caches: a block of cells before it is written, the state of a sequence; and to the host and back.

Inside they are plans of COPY_ROWS alone. To and from the host raw bytes are copied between two runs.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.graph import Graph, from_nodes
from graphsched.graph.ops import copy_rows
from graphsched.graph.tensor import Tensor, i32, input_tensor
from graphsched.run.operand import Memory
from graphsched.run.runnable import Runnable


class Copier:
    """Copies n rows at once within each of some caches, where these live.

    compile: makes a graph ready to run. input: the host array that feeds an input. memory: that of a cache.
    """

    def __init__(
        self,
        kind: str,
        caches: Sequence[Tensor],
        n: int,
        compile: Callable[[Graph], Runnable],
        input: Callable[[Tensor], NDArray[np.int32]],
        memory: Callable[[Tensor], Memory],
    ) -> None:
        source, target = (input_tensor(f"inp_copy_{end}{kind}", i32(n)) for end in ("from", "to"))
        self.caches, self._ids, self._compile, self._memory = caches, (source, target), compile, memory
        self._arrays = input(source), input(target)
        self._plan: Runnable | None = None
        self._n = n

    def copy(self, source: int, target: int) -> None:
        """Row source · n + i of each cache becomes row target · n + i, for all i below n."""
        if self._plan is None:
            nodes = [copy_rows(cache, *self._ids) for cache in self.caches]
            self._plan = self._compile(
                from_nodes(nodes, ())
            )  # an output would bring a whole cache to the host
        rows = np.arange(self._n)
        for array, at in zip(self._arrays, (source, target), strict=True):
            array[:] = at * self._n + rows
        self._plan.run({})

    def read(self, places: NDArray[np.int32]) -> dict[str, NDArray[np.uint8]]:
        """Copies on the host of n rows each from place · n on: u8[places, bytes] by the name of the cache."""
        sizes = self.row_bytes
        return {cache.name: self._memory(cache).read(places, sizes[cache.name]) for cache in self.caches}

    def write(self, places: NDArray[np.int32], values: Mapping[str, NDArray[np.uint8]]) -> None:
        """Puts back what `read` gave, there or elsewhere."""
        for cache in self.caches:
            self._memory(cache).write(places, values[cache.name])

    @property
    def row_bytes(self) -> dict[str, int]:
        """Bytes of n rows of each cache, by its name."""
        return {cache.name: cache.type.nbytes // int(cache.shape[0]) * self._n for cache in self.caches}


def caches_by_kind(graph: Graph, kinds: Mapping[str, str]) -> Mapping[str, tuple[Tensor, ...]]:
    """The caches of a graph by the kind of their rows: the value in `kinds` of their first dimension's word."""
    found: dict[str, list[Tensor]] = {kind: [] for kind in kinds.values()}
    for leaf in graph.leaves:
        if leaf.kind == "cache":
            found[kinds[getattr(leaf.shape[0], "word", "")]].append(leaf)
    return {kind: tuple(leaves) for kind, leaves in found.items() if leaves}
