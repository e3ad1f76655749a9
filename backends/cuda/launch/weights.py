"""Weights as this device holds them: floats in rows of whole 16 bytes, blocks in planes, ternary matrices in tiles."""

from graphsched.backends.cuda.launch import ternary_tiles
from graphsched.backends.cuda.launch.layout import LAYOUTS
from graphsched.graph.tensor import TensorType
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

FLOATS = {dtypes.F32: "f32", dtypes.F16: "f16", dtypes.BF16: "bf16"}
BLOCKS = {t: t.name.lower() for t in dtypes.all_types() if t.name.lower() in LAYOUTS}
TYPES = (*FLOATS, *BLOCKS)


TERNARY = (dtypes.IQ1_BN, dtypes.IQ2_BN)


def is_tiled(type: TensorType) -> bool:
    """Whether a weight lies in the tiles of w2a8.cu: a ternary matrix. Those of experts and heads have planes."""
    return type.dtype in TERNARY and len(type.shape) == 2 and int(type.shape[1]) <= ternary_tiles.MOST


def kind_of(dtype: DType) -> str:
    """A weight type as the kernels call it."""
    return FLOATS.get(dtype) or BLOCKS[dtype]


def row_bytes(type: TensorType) -> int:
    """Bytes from row to row of a float matrix."""
    return -(-int(type.shape[-1]) * type.dtype.nbytes // 16) * 16


def packed_bytes(type: TensorType) -> int:
    """Bytes of a weight on the device."""
    if is_tiled(type):
        return ternary_tiles.scaled_bytes(*map(int, type.shape))
    if type.dtype in BLOCKS:
        rows, k = type.shape[-2:]
        return type.numel // (rows * k) * LAYOUTS[BLOCKS[type.dtype]].nbytes_of(rows, k)
    if len(type.shape) < 2:
        return type.nbytes
    return type.numel // type.shape[-1] * row_bytes(type)
