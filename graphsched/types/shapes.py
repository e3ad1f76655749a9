"""Element type and shape of a tensor, and lengths that are known only when it is computed.

Shapes are in numpy order, outermost dimension first, everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from graphsched.types import dtypes
from graphsched.types.dtypes import DType
from graphsched.types.extents import N_KV, N_SEQUENCES, N_TOKENS, OWN


class Extent(int):
    """A capacity in a shape: the int is what is planned for, `word` names the actual length of a run."""

    word: str

    def __new__(cls, capacity: int, word: str) -> "Extent":
        self = super().__new__(cls, capacity)
        self.word = word
        return self

    def __repr__(self) -> str:
        return f"{self.word}<={int(self)}"

    __str__ = __repr__

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]  # int's own takes the value only
        return int(self), self.word


class Pool(Extent):
    """The cells of a pool, any of which a run may read: arrays have all of them, a token sees `word` at most."""


def length_word(dim: int) -> str:
    """The word of a dimension's actual length; empty if that is fixed, as it is for the arrays of a pool."""
    return dim.word if isinstance(dim, Extent) and not isinstance(dim, Pool) else ""


@dataclass(frozen=True)
class TensorType:
    """Element type and shape; the first dimension may be an `Extent`."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements, at capacity."""
        n = 1
        for d in self.shape:
            n *= int(d)
        return n

    @property
    def nbytes(self) -> int:
        """Bytes, at capacity."""
        return self.dtype.tensor_bytes(tuple(int(d) for d in self.shape))

    def __str__(self) -> str:
        return f"{self.dtype.name.lower()}[{','.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Lengths:
    """Resolves extents in shapes: to capacities when memory is made, to actual lengths when results are read."""

    lengths: Mapping[str, int]

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with actual lengths in place of capacities; a pool has all its cells."""
        return tuple(self.lengths.get(length_word(d), int(d)) for d in shape)

    def seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with actual lengths; of a pool as many cells as a token sees on average, with which it computes."""
        return tuple(map(self._seen, shape))

    def read(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with actual lengths; of a pool the cells that tokens of all sequences see, which are read."""
        return tuple(self._read(d) if isinstance(d, Pool) else self._length(d) for d in shape)

    def _seen(self, d: int) -> int:
        """The last of a sequence's tokens sees all cells, each one before it a cell less; a window is always full."""
        if not isinstance(d, Pool) or d.word != N_KV:
            return self._length(d)
        n_tokens = self.lengths.get(N_TOKENS, 1) // max(self.lengths.get(N_SEQUENCES, 1), 1)
        return max(self._length(d) - (n_tokens - 1) // 2, 1)

    def _read(self, pool: Pool) -> int:
        seen = self._length(pool)
        # A table names whole blocks: of few tokens what these see is less.
        return min(self.lengths.get(OWN[pool.word], seen), seen * self.lengths.get(N_TOKENS, 1))

    def _length(self, d: int) -> int:
        return self.lengths.get(d.word, int(d)) if isinstance(d, Extent) else int(d)


def f32(*shape: int) -> TensorType:
    """The type of a float32 tensor."""
    return TensorType(dtypes.F32, shape)


def i32(*shape: int) -> TensorType:
    """The type of an int32 tensor."""
    return TensorType(dtypes.I32, shape)
