"""Cells of the KV cache: how many a layer needs, which token each holds, what going back in a sequence loses.

A layer that sees only a window (or its chunk) needs that many cells and room for the tokens of a run, used as a ring:
position p is in cell p % n.
"""

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.tensor import Tensor

RING_STEP = 256  # of a ring's size: attention passes over so many cells at a time
RING = "n_kv_swa"  # the extent of a ring; its actual length never exceeds its capacity


def ring_cells(span: int, n_ubatch: int, n_kv: int) -> int:
    """Cells for layers that see `span` positions, n_kv if a ring would save none."""
    n = -(-(span + min(n_ubatch, n_kv)) // RING_STEP) * RING_STEP
    return min(n, n_kv)


class CellTable:
    """What the host keeps of one kind of cells: `cells` [n, 2] = (sequence, position), `slots` of a run's tokens."""

    def __init__(self, leaf: Tensor, cells: NDArray[np.int32], slots: NDArray[np.int32]) -> None:
        self.cells, self.slots, self.size = cells, slots, len(cells)
        self.window, self.chunk = leaf.attrs.get("window", 0), leaf.attrs.get("chunk", 0)
        cells[:] = -1

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
        """Whether all is there that a token at position n_past sees."""
        oldest = n_past - self.window + 1 if self.window else 0
        if self.chunk:
            oldest = max(oldest, n_past // self.chunk * self.chunk)
        needed = np.arange(max(oldest, 0), n_past)
        held = self.cells[needed % self.size]
        return bool((held[:, 0] == 0).all() and (held[:, 1] == needed).all())
