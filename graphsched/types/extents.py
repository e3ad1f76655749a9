"""Names of the lengths that change from run to run: an `Extent` is a capacity, the run block says the actual length."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

EXTENTS: Final = ("n_tokens", "n_outputs", "n_kv", "n_kv_swa")  # in the order in which devices keep them
N_TOKENS, N_OUTPUTS, N_KV, N_KV_SWA = EXTENTS
# Kinds of KV cells by their extent, with what their inputs' names end in: all positions, and a ring for a window.
CELLS: Final[Mapping[str, str]] = MappingProxyType({N_KV: "", N_KV_SWA: "_swa"})
