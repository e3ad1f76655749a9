"""What a forward reads besides weights and caches: host arrays of its inputs, filled for rows, and its lengths."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graphsched.session.cell_inputs import Arrays, CellInputs
from graphsched.session.rows import Rows, Runs
from graphsched.types.extents import (
    CELL_BLOCK,
    CELLS,
    ENTRIES,
    N_KV_SWA,
    N_OUTPUTS,
    N_SEQUENCES,
    N_TOKENS,
    OWN,
)

# Lengths of each kind of cells: what a token sees at most, entries of tables, and the cells of these.
WORDS = {kind: (word, ENTRIES[word], OWN[word]) for word, kind in CELLS.items()}


class Feed:
    """The arrays of all graphs of an engine. cells: those of each kind of cells.

    window_cells: those that a sequence keeps for layers with a window, 0 if there are none.
    """

    def __init__(self, arrays: Arrays, cells: Mapping[str, CellInputs], n_ubatch: int) -> None:
        unused = np.zeros(n_ubatch, np.int32)  # a model need not ask for every input
        self._tokens, self._out_ids = arrays["inp_tokens"], arrays["inp_out_ids"]
        self._pos = arrays.get("inp_pos", unused)
        self._cells = cells
        # Of a model without cells only states are to know whose rows these are.
        self._where = arrays["inp_where"] if "inp_where" in arrays and "" not in cells else None
        self._beside = [arrays[name] for name in ("inp_beside", "inp_beside_cells") if name in arrays]
        swa = CELLS[N_KV_SWA]
        self.window_cells = cells[swa].blocks.kept * CELL_BLOCK if swa in cells else 0

    def gather(self, arrays: Arrays) -> None:
        """Fills the arrays of a further graph, too, as far as they gather cells."""
        for kind, inputs in self._cells.items():
            inputs.gather(kind, arrays)

    def fill(self, rows: Rows, runs: Runs, wanted: NDArray[np.intp]) -> Mapping[str, int]:
        """Fills all arrays for rows of sequences, of which `wanted` want logits; the lengths of their run."""
        position, n, n_wanted = rows.position, len(rows.position), len(wanted)
        self._tokens[:n], self._pos[:n] = rows.token, position
        self._out_ids[:n_wanted] = wanted
        if self._where is not None:
            self._where[:n, 0], self._where[:n, 1] = rows.sequence, position
        for beside in self._beside:
            beside[:n] = 0
            beside[:n, 0] = rows.sequence
        n_sequences = len(runs.slots)
        end = runs.end.item() if n_sequences == 1 else int(runs.end.max())
        lengths = {N_TOKENS: n, N_OUTPUTS: n_wanted, N_SEQUENCES: n_sequences}
        for kind, inputs in self._cells.items():
            kv, blocks, own = WORDS[kind]
            lengths[blocks] = entries = inputs.fill(runs, position)
            lengths[kv], lengths[own] = min(end, self.window_cells) if kind else end, entries * CELL_BLOCK
        return lengths
