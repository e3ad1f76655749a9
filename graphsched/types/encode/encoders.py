"""The types whose scales are searched: float32 rows, and how much each column matters, to bytes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from graphsched.types.encode import blocks32, kquants, nonlinear
from graphsched.types.encode.packing import Bytes
from graphsched.types.encode.search import Floats

if TYPE_CHECKING:
    from graphsched.types.dtypes import DType

Encoder = Callable[[Floats, Floats | None], Bytes]
SEARCHED: Final[dict[str, Encoder]] = {
    "Q2_K": kquants.q2_k,
    "Q3_K": kquants.q3_k,
    "Q4_K": kquants.q4_k,
    "Q5_K": kquants.q5_k,
    "Q6_K": kquants.q6_k,
    "IQ4_NL": nonlinear.iq4_nl,
    "IQ4_XS": nonlinear.iq4_xs,
}
# These only with an importance matrix: without one `gguf.quants` has them, with the bytes that llama.cpp writes.
WEIGHTED: Final[dict[str, Encoder]] = {
    "Q4_0": blocks32.q4_0,
    "Q4_1": blocks32.q4_1,
    "Q5_0": blocks32.q5_0,
    "Q5_1": blocks32.q5_1,
}
# Of the types above those that a KV cache holds, too.
AT_ONCE: Final[dict[str, Encoder]] = {"IQ4_NL": lambda blocks, w: nonlinear.iq4_nl_at_once(blocks)}
_PIECE: Final = 1 << 16  # weights, whose temporaries fit into a core's cache


def searched(dtype: "DType", rows: Floats, importance: Floats | None, at_once: bool = False) -> Bytes | None:
    """Rows [R, K] and importance [K] to bytes [R, bytes of a row], or None for a type that needs no search."""
    table = AT_ONCE if at_once else SEARCHED if importance is None else SEARCHED | WEIGHTED
    encode = table.get(dtype.name)
    if encode is None:
        return None
    blocks, step = rows.reshape(-1, dtype.block), _PIECE // dtype.block
    w = None
    if importance is not None:
        w = np.broadcast_to(importance.astype(np.float32), rows.shape).reshape(blocks.shape)
    with np.errstate(over="ignore"):  # a scale that F16 does not hold becomes inf, as in llama.cpp
        parts = [
            encode(blocks[i : i + step], None if w is None else w[i : i + step])
            for i in range(0, len(blocks), step)
        ]
    return np.concatenate(parts).reshape(len(rows), -1)
