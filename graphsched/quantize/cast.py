"""Weights to the bytes of a type, values checked on both sides: nothing that is not finite gets into a file."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import LoadError
from graphsched.types.dtypes import DType

_LARGEST_F16: Final = 65504.0  # also of the scales of most types


def encode(
    weights: NDArray[np.float32], dtype: DType, where: str, importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """The bytes of weights [rows, columns]; LoadError, which begins with `where`, if they or their codes overflow."""
    if not np.isfinite(weights).all():
        raise LoadError(f"{where} has weights that are not finite")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        raw = dtype.quantize(weights, importance)
    largest = float(np.abs(weights).max(initial=0))
    if largest > _LARGEST_F16 and not np.isfinite(dtype.dequantize(raw, weights.shape)).all():
        wider = "F32" if dtype.name == "BF16" else "BF16"
        raise LoadError(f"{where} has a weight of {largest:g}, which {dtype} cannot hold; {wider} can")
    return raw
