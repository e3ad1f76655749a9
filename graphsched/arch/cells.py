"""KV-cache cells as inputs of a graph, and how many of them a layer needs.

A layer that sees only a window (or its chunk) needs that many cells and room for the tokens of a run, used as a ring:
position p is in cell p % n.
"""

from dataclasses import dataclass

from graphsched.graph.tensor import Extent, Tensor, i32, input_tensor
from graphsched.types.extents import CELLS

RING_STEP = 256  # of a ring's size: attention passes over so many cells at a time


@dataclass(frozen=True)
class Cells:
    """Cells that layers of one kind keep keys and values in.

    cells i32[n, 2] = (sequence, position) of each (-1 if free), slots i32[n_tokens] = the cell that each token is
    stored in.
    """

    n: Extent
    cells: Tensor
    slots: Tensor


def cells_input(n: Extent, n_tokens: Extent, **mask: int) -> Cells:
    """Makes the inputs for n cells, named after the extent. mask: `window` and `chunk` of the layers that use them."""
    kind = CELLS[n.word]
    cells = input_tensor(f"inp_cells{kind}", i32(n, 2), **mask)
    return Cells(n, cells, input_tensor(f"inp_slots{kind}", i32(n_tokens)))


def ring_cells(span: int, n_ubatch: int, n_kv: int) -> int:
    """Cells for layers that see `span` positions, n_kv if a ring would save none."""
    n = -(-(span + min(n_ubatch, n_kv)) // RING_STEP) * RING_STEP
    return min(n, n_kv)
