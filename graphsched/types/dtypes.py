"""Tensor types: one table row per type, with the size of its blocks and how it becomes float32."""

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import Error, ShapeError
from graphsched.types import layouts

_NUMPY: Final = {"F32": "<f4", "F16": "<f2", "F64": "<f8"} | {f"I{8 * n}": f"<i{n}" for n in (1, 2, 4, 8)}


@dataclass(frozen=True)
class DType:
    """A tensor is its rows back to back, then `tail`; a row is `row_header`, then blocks.

    With `interleave` > 1 that many rows form one group of the same total size: the headers of all its rows,
    then per block index the blocks of all its rows, mixed in a way of the type's own.
    """

    name: str
    id: int
    block: int
    nbytes: int
    row_header: int = 0
    tail: int = 0
    interleave: int = 1

    def __str__(self) -> str:
        return self.name

    @property
    def numpy(self) -> np.dtype[Any] | None:
        """The numpy type of one weight; None for a type that numpy does not know."""
        code = _NUMPY.get(self.name)
        return None if code is None else np.dtype(code)

    def row_bytes(self, n: int) -> int:
        """Bytes of a row of n weights."""
        if n % self.block:
            raise ShapeError(f"{self.name}: a row of {n} is not a multiple of the block length {self.block}")
        return self.row_header + n // self.block * self.nbytes

    def offset_of(self, start: int) -> int:
        """Bytes from a row's begin to its weights from `start` on, which is the begin of a block.

        A row that has a header is read from the header on: parts of it begin where it does (`start` = 0).
        """
        return start // self.block * self.nbytes

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor; shape in numpy order, outermost first."""
        row = self.row_bytes(shape[-1] if shape else 1)
        rows = shape[-2] if len(shape) > 1 else 1
        if rows % self.interleave:
            raise ShapeError(f"{self.name}: {rows} rows are not a multiple of the group of {self.interleave}")
        return math.prod(shape[:-1]) * row + self.tail

    def dequantize(self, raw: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The tensor's bytes as float32 of the given shape."""
        size = self.tensor_bytes(shape)
        if raw.dtype != np.uint8 or raw.size != size:
            raise ShapeError(f"{self.name}: {list(shape)} takes {size} bytes, {raw.nbytes} are given")
        raw = np.ascontiguousarray(raw).reshape(-1)
        with np.errstate(over="ignore", invalid="ignore"):  # a broken file may hold any scale
            if self.numpy is not None:
                return raw.view(self.numpy).astype(np.float32).reshape(shape)
            rows = raw[: size - self.tail].reshape(-1, self.row_bytes(shape[-1] if shape else 1))
            if (decode := layouts.DECODERS.get(self.name)) is not None:
                return decode(rows, raw[size - self.tail :]).reshape(shape)
            return self._gguf("dequantize", rows).reshape(shape)

    def quantize(
        self, array: NDArray[Any], importance: NDArray[np.float32] | None = None, *, at_once: bool = False
    ) -> NDArray[np.uint8]:
        """The bytes of an array in this type, 1-D.

        `importance`, one per column, weighs squared errors where a type's scales are searched. With `at_once` nothing
        is searched: what ggml's reference quantisers do, and a KV cache holds.
        """
        size = self.tensor_bytes(array.shape)
        if self.numpy is not None:
            return array.astype(self.numpy).reshape(-1).view(np.uint8)
        rows = array.astype(np.float32).reshape(-1, array.shape[-1] if array.ndim else 1)
        if (encode := layouts.ENCODERS.get(self.name)) is not None:
            raw = encode(rows)
        else:
            from graphsched.types.encode.encoders import searched  # most runs never quantise

            found = searched(self, rows, importance, at_once)
            raw = self._gguf("quantize", rows) if found is None else found
        assert raw.nbytes == size, (self.name, raw.nbytes, size)
        return raw.reshape(-1).view(np.uint8)

    def _gguf(self, direction: str, rows: NDArray[Any]) -> NDArray[Any]:
        import gguf  # takes 0.2 s, and most runs never convert a tensor in Python

        kind = getattr(gguf.GGMLQuantizationType, self.name, None)
        with suppress(NotImplementedError):
            if kind is not None:
                return getattr(gguf.quants, direction)(rows, kind)
        if direction == "quantize":
            raise Error(f"{self.name}: there is no code here that quantises to this type")
        raise Error(f"{self.name}: this type can be listed but not dequantised")


# I2_S and the ids from 133 up are those of ik_llama.cpp, without types that only hold activations. Q8_1 has
# 40 bytes in `gguf`, but two halves and 32 bytes in both engines.
_TYPES: Final = (
    DType("F32", 0, 1, 4),
    DType("F16", 1, 1, 2),
    DType("Q4_0", 2, 32, 18),
    DType("Q4_1", 3, 32, 20),
    DType("Q5_0", 6, 32, 22),
    DType("Q5_1", 7, 32, 24),
    DType("Q8_0", 8, 32, 34),
    DType("Q8_1", 9, 32, 36),
    DType("Q2_K", 10, 256, 84),
    DType("Q3_K", 11, 256, 110),
    DType("Q4_K", 12, 256, 144),
    DType("Q5_K", 13, 256, 176),
    DType("Q6_K", 14, 256, 210),
    DType("Q8_K", 15, 256, 292),
    DType("IQ2_XXS", 16, 256, 66),
    DType("IQ2_XS", 17, 256, 74),
    DType("IQ3_XXS", 18, 256, 98),
    DType("IQ1_S", 19, 256, 50),
    DType("IQ4_NL", 20, 32, 18),
    DType("IQ3_S", 21, 256, 110),
    DType("IQ2_S", 22, 256, 82),
    DType("IQ4_XS", 23, 256, 136),
    DType("I8", 24, 1, 1),
    DType("I16", 25, 1, 2),
    DType("I32", 26, 1, 4),
    DType("I64", 27, 1, 8),
    DType("F64", 28, 1, 8),
    DType("IQ1_M", 29, 256, 56),
    DType("BF16", 30, 1, 2),
    DType("TQ1_0", 34, 256, 54),
    DType("TQ2_0", 35, 256, 66),
    DType("I2_S", 36, 128, 32, tail=32),
    DType("MXFP4", 39, 32, 17),
    DType("NVFP4", 40, 64, 36),
    DType("Q1_0", 41, 128, 18),
    DType("Q6_0", 133, 32, 26),
    DType("IQ1_BN", 134, 64, 13, row_header=2),
    DType("IQ2_BN", 135, 64, 16, row_header=4),
    DType("IQ2_K", 137, 256, 76),
    DType("IQ3_K", 138, 256, 110),
    DType("IQ4_K", 139, 256, 144),
    DType("IQ5_K", 140, 256, 176),
    DType("IQ6_K", 141, 256, 212),
    DType("IQ4_KS", 144, 256, 136, row_header=4),
    DType("IQ2_KS", 145, 256, 70, row_header=2),
    DType("IQ4_KSS", 146, 256, 128, row_header=4),
    DType("Q8_KV", 151, 32, 32, row_header=8),
    DType("IQ5_KS", 152, 256, 168, row_header=4),
    DType("IQ2_KT", 153, 256, 68, row_header=4),
    DType("IQ3_KT", 154, 256, 100, row_header=4),
    DType("IQ4_KT", 155, 256, 128, row_header=4),
    DType("IQ3_KS", 156, 256, 102, row_header=2),
    DType("IQ2_KL", 157, 256, 86, row_header=2),
    DType("IQ1_KT", 158, 256, 56, row_header=4),
    DType("Q4_0_R8", 202, 32, 18, interleave=8),
    DType("Q5_0_R4", 206, 32, 22, interleave=4),
    DType("Q8_0_R8", 208, 32, 34, interleave=8),
    DType("Q2_K_R4", 210, 256, 84, interleave=4),
    DType("Q3_K_R4", 211, 256, 110, interleave=4),
    DType("Q4_K_R4", 212, 256, 144, interleave=4),
    DType("Q5_K_R4", 213, 256, 176, interleave=4),
    DType("Q6_K_R4", 214, 256, 210, interleave=4),
    DType("IQ2_XXS_R4", 216, 256, 66, interleave=4),
    DType("IQ2_XS_R4", 217, 256, 74, interleave=4),
    DType("IQ3_XXS_R4", 218, 256, 98, interleave=4),
    DType("IQ1_S_R4", 219, 32, 6, row_header=2, interleave=4),
    DType("IQ4_NL_R4", 220, 32, 18, interleave=4),
    DType("IQ3_S_R4", 221, 256, 110, interleave=4),
    DType("IQ2_S_R4", 222, 256, 82, interleave=4),
    DType("IQ4_XS_R8", 223, 256, 136, interleave=8),
    DType("IQ1_M_R4", 229, 32, 7, row_header=2, interleave=4),
    DType("BF16_R16", 230, 1, 2, interleave=16),
    DType("Q6_0_R4", 233, 32, 26, interleave=4),
    DType("IQ2_BN_R4", 335, 64, 16, row_header=4, interleave=4),
    DType("IQ2_K_R4", 337, 256, 76, interleave=4),
    DType("IQ3_K_R4", 338, 256, 110, interleave=4),
    DType("IQ4_K_R4", 339, 256, 144, interleave=4),
    DType("IQ5_K_R4", 340, 256, 176, interleave=4),
    DType("IQ4_KS_R4", 344, 256, 136, row_header=4, interleave=4),
    DType("IQ5_KS_R4", 352, 256, 168, row_header=4, interleave=4),
    DType("Q8_K_R16", 397, 256, 258, interleave=16),
    DType("Q8_KV_R8", 398, 32, 32, row_header=4, interleave=8),
    DType("Q8_K_R8", 399, 256, 258, interleave=8),
)
_BY_ID: Final = {t.id: t for t in _TYPES}
_BY_NAME: Final = {t.name: t for t in _TYPES}

F32, F16, BF16, F64 = (_BY_NAME[n] for n in ("F32", "F16", "BF16", "F64"))
I8, I16, I32, I64 = (_BY_NAME[n] for n in ("I8", "I16", "I32", "I64"))
Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 = (_BY_NAME[n] for n in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
Q2_K, Q3_K, Q4_K, Q5_K, Q6_K = (_BY_NAME[n] for n in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"))
IQ4_NL, IQ4_XS, IQ3_S, MXFP4 = (_BY_NAME[n] for n in ("IQ4_NL", "IQ4_XS", "IQ3_S", "MXFP4"))
TQ1_0, TQ2_0, I2_S = (_BY_NAME[n] for n in ("TQ1_0", "TQ2_0", "I2_S"))
Q8_KV = _BY_NAME["Q8_KV"]
IQ1_BN, IQ2_BN, IQ2_BN_R4 = (_BY_NAME[n] for n in ("IQ1_BN", "IQ2_BN", "IQ2_BN_R4"))
KV_TYPES = (F32, F16, BF16, Q8_0, Q4_0, Q5_1, IQ4_NL, Q8_KV)  # what a KV cache may hold


def all_types() -> tuple[DType, ...]:
    """Every type of the table, by id."""
    return _TYPES


def by_id(id: int) -> DType:
    """The type with a GGML id."""
    if id not in _BY_ID:
        raise Error(f"type id {id} is unknown")
    return _BY_ID[id]


def by_name(name: str) -> DType:
    """The type with a name, in any case."""
    if name.upper() not in _BY_NAME:
        raise Error(f"tensor type {name} is unknown; known are {', '.join(_BY_NAME)}")
    return _BY_NAME[name.upper()]
