"""The weights of a model file by their GGUF names, as architecture files ask for them."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from graphsched.arch.stored import Derived
from graphsched.errors import LoadError
from graphsched.graph.tensor import Tensor, TensorType, weight
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

_ENDINGS = (".bias", ".scale", ".")  # of names that are no matrices, or have no suffix at all


class Weights:
    """A level of the GGUF name space: `w.blk[3].attn_q` is `blk.3.attn_q.weight`; ask `"output" in w`.

    `asked` gets the full names of all that an architecture asks for.
    """

    def __init__(
        self,
        types: Mapping[str, TensorType],
        source: str,
        prefix: str = "",
        n_layer: int = 0,
        asked: set[str] | None = None,
    ) -> None:
        self._types, self._source, self._prefix, self._n_layer = types, source, prefix, n_layer
        self._leaves: dict[str, Tensor] = {}
        self._asked: set[str] = set() if asked is None else asked
        self._blk = [Weights(types, source, f"blk.{i}.", asked=self._asked) for i in range(n_layer)]

    @property
    def layer(self) -> int:
        """The number of this layer (a level `blk.3` only)."""
        return int(self._prefix.split(".")[1])

    @property
    def blk(self) -> list["Weights"]:
        """The layers, in order."""
        return self._blk

    def __contains__(self, name: str) -> bool:
        return self._full(name) in self._types

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Tensor:
        """The weight by its short name: `attn_q`, or `attn_q.bias`; `exp_probs_b.` is a name without suffix."""
        full = self._full(name)
        if full not in self._types:
            raise LoadError(f"{self._source}: missing tensor {full}")
        if full not in self._leaves:
            self._leaves[full] = weight(full, self._types[full])
        return self._leaves[full]

    def sized(self, name: str, *shape: int | None) -> Tensor:
        """The weight, which must have this shape; None allows any length."""
        found = self[name]
        fits = len(found.shape) == len(shape) and all(
            n in (None, d) for n, d in zip(shape, found.shape, strict=True)
        )
        if not fits:
            need = ", ".join("any" if n is None else str(int(n)) for n in shape)
            raise LoadError(
                f"{self._source}: tensor {found.name} has shape {list(found.shape)}, [{need}] is needed"
            )
        return found

    def shaped(self, name: str, *shape: int) -> Tensor:
        """The weight in this shape; the file's may have axes of length 1 more or fewer."""
        found = self[name]
        if found.shape == shape or _longer(found.shape) != _longer(shape):
            return self.sized(name, *shape)
        return self._leaves.setdefault(
            f"{found.name} {shape}", weight(found.name, TensorType(found.dtype, shape))
        )

    def stacked(self, name: str, *shape: int) -> Tensor:
        """As sized; where the first length is 1, as for a single head, the file may leave it out."""
        return self.shaped(name, *shape) if shape[0] == 1 else self.sized(name, *shape)

    def lacking(
        self, name: str, shape: tuple[int, ...], compute: Callable[..., NDArray[np.float32]], *sources: Tensor
    ) -> Iterator[tuple[str, Derived]]:
        """The weight by its full name, to be computed from others, if the file lacks it."""
        if name not in self:
            type = TensorType(_derived_dtype(sources[0].dtype, shape[-1]), shape)
            yield self._full(name), Derived(type, sources, compute)

    def _full(self, name: str) -> str:
        full = self._prefix + (name.removesuffix(".") if name.endswith(_ENDINGS) else f"{name}.weight")
        self._asked.add(full)
        return full


def _longer(shape: tuple[int, ...]) -> list[int]:
    """The lengths above 1."""
    return [int(n) for n in shape if n != 1]


def _derived_dtype(source: DType, row: int) -> DType:
    """The type of a derived weight: the source's if that is a float, else Q8_0, or F16 where rows do not fit."""
    if source.block == 1:
        return source
    return dtypes.Q8_0 if row % dtypes.Q8_0.block == 0 else dtypes.F16
