"""The bytes of a GGUF header, from metadata and tensor types."""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from graphsched.gguf.format import MetaValue
from graphsched.types.shapes import TensorType

ALIGNMENT: Final = 32
_VERSION: Final = 3
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64, _INT64 = 4, 5, 6, 7, 8, 9, 10, 11
_NUMBERS: Final = {
    f"{kind}{size}": i
    for i, (kind, size) in enumerate([("u", 1), ("i", 1), ("u", 2), ("i", 2), ("u", 4), ("i", 4), ("f", 4)])
} | {"b1": _BOOL, "u8": _UINT64, "i8": _INT64, "f8": 12}


def aligned(n: int) -> int:
    """n rounded up to the alignment of tensor data."""
    return -(-n // ALIGNMENT) * ALIGNMENT


def encode_header(metadata: Mapping[str, MetaValue | bytes], types: Mapping[str, TensorType]) -> bytes:
    """Everything in front of the tensor data, padded; tensors follow in the mapping's order, each aligned.

    A value in bytes is one that `ModelFile.encoded` gave.
    """
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(types), len(metadata))]
    parts += [_string(key) + encode_value(value) for key, value in metadata.items()]
    for (name, type), offset in zip(types.items(), offsets(types), strict=True):
        dims = type.shape[::-1]
        parts.append(_string(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims))
        parts.append(struct.pack("<IQ", type.dtype.id, offset))
    data = b"".join(parts)
    return data.ljust(aligned(len(data)), b"\0")


def offsets(types: Mapping[str, TensorType]) -> Iterator[int]:
    """Where each tensor starts, from the start of the data."""
    at = 0
    for type in types.values():
        yield at
        at += aligned(type.nbytes)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(raw)) + raw


def encode_value(value: MetaValue | bytes) -> bytes:
    """A metadata value as a file has it, its type in front."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, np.ndarray):
        kind = _NUMBERS[f"{value.dtype.kind}{value.dtype.itemsize}"]
        return struct.pack("<IIQ", _ARRAY, kind, value.size) + value.tobytes()
    if isinstance(value, tuple):
        head = struct.pack("<IIQ", _ARRAY, _STRING, len(value))
        return head + b"".join(map(_string, value))
    return _scalar(value)


def _scalar(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if 0 <= value < 1 << 32:
        return struct.pack("<II", _UINT32, value)
    return struct.pack("<Iq", _INT64, value)
