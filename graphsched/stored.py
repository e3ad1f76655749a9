"""The raw bytes of a model's weights by name: mapped from the file, or derived from others on first use."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from graphsched.arch import Derived
from graphsched.loader import ModelFile

Raw = NDArray[np.uint8]


EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


class StoredWeights(Mapping[str, Raw]):
    """Derived weights are kept once computed; what no graph reads is never computed."""

    def __init__(self, file: ModelFile, derived: Mapping[str, Derived], copies: bool = False) -> None:
        self._file, self._derived, self._copies = file, derived, copies
        self._computed: dict[str, Raw] = {}

    def __getitem__(self, name: str) -> Raw:
        if name == OUTPUT and name not in self._file.tensors:  # tied: two names for placement, one matrix
            name = EMBEDDING
        if name not in self._derived and not self._copies:
            return self._file.raw(name)
        if name not in self._computed:
            derived = self._derived.get(name)
            self._computed[name] = self._compute(derived) if derived else self._file.raw(name).copy()
        return self._computed[name]

    def copied(self) -> "StoredWeights":
        """The same weights in memory of their own instead of the mapped file, read on first use."""
        return StoredWeights(self._file, self._derived, copies=True)

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
