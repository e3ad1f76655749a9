"""Weights as this device holds them: floats in rows of whole 16 bytes, blocks in planes, ternary matrices in tiles."""

import numpy as np
from numpy.typing import NDArray

from graphsched import dtypes
from graphsched.backends.cuda import w2a8
from graphsched.backends.cuda.layout import LAYOUTS, repack
from graphsched.dtypes import DType
from graphsched.tensor import TensorType

Raw = NDArray[np.uint8]
FLOATS = {dtypes.F32: "f32", dtypes.F16: "f16", dtypes.BF16: "bf16"}
BLOCKS = {t: t.name.lower() for t in dtypes.all_types() if t.name.lower() in LAYOUTS}
TYPES = (*FLOATS, *BLOCKS)


TERNARY = (dtypes.IQ1_BN, dtypes.IQ2_BN)


def is_tiled(type: TensorType) -> bool:
    """Whether a weight lies in the tiles of w2a8.cu: a ternary matrix. Those of experts and heads have planes."""
    return type.dtype in TERNARY and len(type.shape) == 2 and int(type.shape[1]) <= w2a8.MOST


def kind_of(dtype: DType) -> str:
    """A weight type as the kernels call it."""
    return FLOATS.get(dtype) or BLOCKS[dtype]


def row_bytes(type: TensorType) -> int:
    """Bytes from row to row of a float matrix."""
    return -(-int(type.shape[-1]) * type.dtype.nbytes // 16) * 16


def packed_bytes(type: TensorType) -> int:
    """Bytes of a weight on the device."""
    if is_tiled(type):
        return w2a8.scaled_bytes(*map(int, type.shape))
    if type.dtype in BLOCKS:
        rows, k = type.shape[-2:]
        return type.numel // (rows * k) * LAYOUTS[BLOCKS[type.dtype]].nbytes_of(rows, k)
    if len(type.shape) < 2:
        return type.nbytes
    return type.numel // type.shape[-1] * row_bytes(type)


def packed(raw: Raw, type: TensorType) -> Raw:
    """A weight's file bytes in the kernels' layout."""
    if is_tiled(type):
        return w2a8.repack(BLOCKS[type.dtype], raw, *map(int, type.shape))
    if type.dtype in BLOCKS:
        rows, k = map(int, type.shape[-2:])
        matrices = raw.reshape(type.numel // (rows * k), -1)
        return np.concatenate([repack(BLOCKS[type.dtype], m, rows, k) for m in matrices])
    if packed_bytes(type) == raw.size:
        return raw
    lines = raw.reshape(type.numel // int(type.shape[-1]), -1)
    out = np.zeros((len(lines), row_bytes(type)), np.uint8)
    out[:, : lines.shape[1]] = lines
    return out.reshape(-1)
