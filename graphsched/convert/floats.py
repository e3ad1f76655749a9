"""Stored numbers of a checkpoint to float32, the 8-bit floats and the 16-bit one that numpy lacks included."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
# How each type of safetensors is stored; BF16 and 8-bit floats come as their bits.
STORED: Final[Mapping[str, str]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
    "F8_E8M0": "u1",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
}
PLAIN: Final = ("F64", "F32", "F16", "BF16")  # weights of these are what they say


def widened(array: NDArray[Any], kind: str) -> Floats:
    """The values of stored numbers in float32; what is larger than float32 holds becomes an infinity."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _DECODERS.get(kind, _cast)(np.asarray(array))


def _cast(array: NDArray[Any]) -> Floats:
    return array.astype(np.float32)


def _bf16(array: NDArray[Any]) -> Floats:
    bits = array.astype("<u4")
    bits <<= 16
    return bits.view("<f4")


def _e4m3_values() -> Floats:
    """4 bits of exponent (bias 7), 3 of mantissa, no infinity, all ones being NaN."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    size = np.where(exponent > 0, normal, np.ldexp(mantissa / 8, -6))
    size[code & 127 == 127] = np.nan
    return np.where(code & 128, -size, size).astype(np.float32)


_E4M3: Final = _e4m3_values()
_DECODERS: Final[Mapping[str, Callable[[NDArray[Any]], Floats]]] = {
    "BF16": _bf16,
    "F8_E4M3": lambda a: _E4M3[a],
    "F8_E5M2": lambda a: (a.astype("<u2") << np.uint16(8)).view("<f2").astype(np.float32),
    # a power of two: the exponent of a float32, whose smallest is subnormal
    "F8_E8M0": lambda a: np.ldexp(np.float32(1), a.astype(np.int32) - 127),
}
