"""The table of KV-cache cells: which token each holds. Runs take cells, going back frees them."""

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.tensor import Tensor


class CellTable:
    """One kind of cells: `cells` i32[n, 2] = (sequence, position), -1 if free; `slots` i32[n_tokens] of a run's tokens.

    Both are the host arrays that the graph's inputs read. A ring has fewer cells than the context: position p is in
    cell p % n.
    """

    def __init__(self, leaf: Tensor, cells: NDArray[np.int32], slots: NDArray[np.int32]) -> None:
        self.cells, self.slots, self.size = cells, slots, len(cells)
        self.window, self.chunk = leaf.attrs.get("window", 0), leaf.attrs.get("chunk", 0)
        cells[:] = -1

    @property
    def is_ring(self) -> bool:
        """Whether its layers see a part of the sequence only, so that older cells are taken again."""
        return bool(self.window or self.chunk)

    def take(self, past: int, positions: NDArray[np.int32]) -> None:
        """Gives cells to tokens at positions from `past` on; in a ring the oldest tokens lose theirs."""
        end = past + len(positions)
        if end <= self.size:
            self.slots[: len(positions)] = positions
            self.cells[past:end, 0], self.cells[past:end, 1] = 0, positions
        else:
            at = positions % self.size
            self.slots[: len(positions)] = at
            self.cells[at, 0], self.cells[at, 1] = 0, positions

    def free(self, n_past: int) -> None:
        """Frees the cells of positions from n_past on."""
        self.cells[self.cells[:, 1] >= n_past] = -1

    def holds(self, n_past: int) -> bool:
        """Whether the cells hold every position that a token at n_past attends to."""
        oldest = n_past - self.window + 1 if self.window else 0
        if self.chunk:
            oldest = max(oldest, n_past // self.chunk * self.chunk)
        needed = np.arange(max(oldest, 0), n_past)
        held = self.cells[needed % self.size]
        return bool((held[:, 0] == 0).all() and (held[:, 1] == needed).all())
