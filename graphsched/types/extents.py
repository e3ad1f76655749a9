"""Names of the lengths that change from run to run: an `Extent` is a capacity, the run block says the actual length."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# In the order in which devices keep them. n_kv: the most positions that a token sees; n_blocks: entries of the tables
# of a run's sequences; n_own: the cells in these blocks. Each for cells that keep everything, and for those of windows.
# n_sequences: of how many sequences a run has tokens.
EXTENTS: Final = (
    "n_tokens",
    "n_outputs",
    "n_kv",
    "n_kv_swa",
    "n_blocks",
    "n_blocks_swa",
    "n_own",
    "n_own_swa",
    "n_sequences",
)
N_TOKENS, N_OUTPUTS, N_KV, N_KV_SWA, N_BLOCKS, N_BLOCKS_SWA, N_OWN, N_OWN_SWA, N_SEQUENCES = EXTENTS
# Kinds of KV cells by their extent, with what their inputs' names end in: all positions, and those of a window.
CELLS: Final[Mapping[str, str]] = MappingProxyType({N_KV: "", N_KV_SWA: "_swa"})
# By the extent of the cells that a token sees: entries of the tables of all sequences of a run, and their cells.
ENTRIES: Final[Mapping[str, str]] = MappingProxyType({N_KV: N_BLOCKS, N_KV_SWA: N_BLOCKS_SWA})
OWN: Final[Mapping[str, str]] = MappingProxyType({N_KV: N_OWN, N_KV_SWA: N_OWN_SWA})
CELL_BLOCK: Final = (
    32  # cells of a block; a power of two, and of 16 as lanes of attention begin at multiples of it
)
