"""Input and output types of a forward, which an engine and its callers share."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]


class Rows(NamedTuple):
    """What one forward computes: an entry for each row, in arrays of one length."""

    sequence: NDArray[np.int32]  # the number of the sequence that the row continues
    position: NDArray[np.int32]  # of its token in that sequence
    token: NDArray[np.int32]
    wants_logits: NDArray[np.bool_]


class Aborted(Exception):
    """A run ended early because `abort` was called; the KV cache holds what was there before it."""
