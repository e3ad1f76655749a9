"""The raw bytes of a model's weights by name: mapped from the file, or derived from others on first use."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphsched.gguf.loader import ModelFile
from graphsched.graph.tensor import Tensor, TensorType

Raw = NDArray[np.uint8]

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class Derived:
    """A weight that a file lacks, computed in float32 from some that it has."""

    type: TensorType
    sources: tuple[Tensor, ...]
    compute: Callable[..., NDArray[np.float32]]


def shares_output(file: ModelFile) -> bool:
    """Whether embedding and output are one matrix: the file lacks the output, or stores the same bytes twice."""
    embedding, output = file.tensors.get(EMBEDDING), file.tensors.get(OUTPUT)
    if embedding is None or output is None:
        return output is None
    if (embedding.dtype, embedding.shape) != (output.dtype, output.shape):
        return False
    if not (file.holds(EMBEDDING) and file.holds(OUTPUT)):
        return False
    ours, theirs = file.raw(EMBEDDING), file.raw(OUTPUT)
    some = slice(
        None, None, max(ours.size // 64, 1)
    )  # of two that differ, 64 bytes do: no need to read the rest
    if not ours[some].any() or not np.array_equal(
        ours[some], theirs[some]
    ):  # zeros: a sparse file, to plan with
        return False
    return np.array_equal(ours, theirs)


class StoredWeights(Mapping[str, Raw]):
    """Raw bytes of all weights by name. A derived one is computed when first read, and kept."""

    def __init__(
        self, file: ModelFile, derived: Mapping[str, Derived], shares_output: bool, copies: bool = False
    ) -> None:
        self._file, self._derived, self._copies = file, derived, copies
        self._shares_output = shares_output
        self._computed: dict[str, Raw] = {}

    def stored_as(self, name: str) -> str:
        """The name under which a weight is stored: the embedding's for a tied output matrix, else its own."""
        return EMBEDDING if name == OUTPUT and self._shares_output else name

    def __getitem__(self, name: str) -> Raw:
        name = self.stored_as(name)
        if name not in self._derived and not self._copies:
            return self._file.raw(name)
        if name not in self._computed:
            derived = self._derived.get(name)
            self._computed[name] = self._compute(derived) if derived else self._file.raw(name).copy()
        return self._computed[name]

    def release(self, name: str) -> None:
        """Lets the system take back the memory behind a weight that has been copied; it is read anew if need be."""
        if name in self._file.tensors and not self._copies:
            self._file.release(name)

    def copied(self) -> "StoredWeights":
        """The same weights in memory of their own instead of the mapped file, read on first use."""
        return StoredWeights(self._file, self._derived, self._shares_output, copies=True)

    def _compute(self, weight: Derived) -> Raw:
        arrays = (s.dtype.dequantize(self[s.name], tuple(s.shape)) for s in weight.sources)
        values = np.ascontiguousarray(weight.compute(*arrays))
        assert values.shape == weight.type.shape, f"{values.shape} is not {weight.type}"
        return weight.type.dtype.quantize(values)

    def __iter__(self) -> Iterator[str]:
        yield from self._file.tensors
        yield from self._derived

    def __len__(self) -> int:
        return len(self._file.tensors) + len(self._derived)
