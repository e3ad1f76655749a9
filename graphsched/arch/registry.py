"""What an architecture file is written with: weights by their GGUF names, inputs, the decorator."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.arch.cells import RING, ring_cells
from graphsched.arch.config import Config, key
from graphsched.errors import LoadError, OptionError
from graphsched.graph.ops import set_rows
from graphsched.graph.tensor import Extent, Tensor, TensorType, i32, input_tensor, weight
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

__all__ = ["Architecture", "Config", "Derived", "Inputs", "Weights", "architecture", "get", "key", "names"]

GROUP = "graphsched.architectures"  # of entry points
Build = Callable[[Any, "Weights", "Inputs"], Tensor]
Derive = Callable[[Any, "Weights"], Iterable[tuple[str, "Derived"]]]


@dataclass(frozen=True)
class Derived:
    """A weight that a file lacks, computed in float32 from some that it has."""

    type: TensorType
    sources: tuple[Tensor, ...]
    compute: Callable[..., NDArray[np.float32]]


class Weights:
    """A level of the GGUF name space: `w.blk[3].attn_q` is `blk.3.attn_q.weight`; ask `"output" in w`."""

    def __init__(
        self, types: Mapping[str, TensorType], source: str, prefix: str = "", n_layer: int = 0
    ) -> None:
        self._types, self._source, self._prefix, self._n_layer = types, source, prefix, n_layer
        self._leaves: dict[str, Tensor] = {}
        self._blk = [Weights(types, source, f"blk.{i}.") for i in range(n_layer)]

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
        """The weight by its short name: `attn_q`, or `attn_q.bias`."""
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

    def lacking(
        self, name: str, shape: tuple[int, ...], compute: Callable[..., NDArray[np.float32]], *sources: Tensor
    ) -> Iterator[tuple[str, Derived]]:
        """The weight by its full name, to be computed from others, if the file lacks it."""
        if name not in self:
            type = TensorType(_derived_dtype(sources[0].dtype, shape[-1]), shape)
            yield self._full(name), Derived(type, sources, compute)

    def _full(self, name: str) -> str:
        return self._prefix + (name if "." in name else f"{name}.weight")


def _derived_dtype(source: DType, row: int) -> DType:
    """The source's type if it is a float, else 8 bits, which lose nothing that matters."""
    if source.block == 1:
        return source
    return dtypes.Q8_0 if row % dtypes.Q8_0.block == 0 else dtypes.F16


@dataclass(frozen=True)
class Cells:
    """Cells that layers of one kind keep keys and values in.

    cells i32[n, 2] = (sequence, position) of each (-1 if free), slots i32[n_tokens] = the cell that each token is
    stored in.
    """

    n: Extent
    cells: Tensor
    slots: Tensor


class Inputs:
    """What a run feeds: token ids, positions, and the cells of the KV cache.

    tokens i32[n_tokens], pos i32[n_tokens], where i32[n_tokens, 2] = (sequence, position) of each token,
    out_ids i32[n_outputs] = rows whose logits are wanted. `all_cells` are those of layers that see everything, `cells`
    their table. `mla` and `amb` are how latent attention is computed (`SessionOptions`). n_ubatch: tokens of the
    largest run, for which a ring of cells has room; swa_full: there are no rings.
    """

    def __init__(
        self,
        n_tokens: int,
        n_outputs: int,
        n_kv: int,
        kv_types: tuple[DType, DType],
        mla: int = 3,
        amb: int = 256,
        n_ubatch: int = 512,
        swa_full: bool = False,
    ) -> None:
        t, o = Extent(n_tokens, "n_tokens"), Extent(n_outputs, "n_outputs")
        self.mla, self.amb, self._kv_types = mla, amb, kv_types
        self._t, self._n_ubatch, self._swa_full = t, n_ubatch, swa_full
        self._ring: Cells | None = None
        self.tokens = input_tensor("inp_tokens", i32(t))
        self.pos = input_tensor("inp_pos", i32(t))
        self.where = input_tensor("inp_where", i32(t, 2))
        self.all_cells = self._made(Extent(n_kv, "n_kv"), "")
        self.out_ids = input_tensor("inp_out_ids", i32(o))

    def _made(self, n: Extent, suffix: str, **mask: int) -> Cells:
        cells = input_tensor(f"inp_cells{suffix}", i32(n, 2), **mask)
        return Cells(n, cells, input_tensor(f"inp_slots{suffix}", i32(self._t)))

    @property
    def n_kv(self) -> Extent:
        return self.all_cells.n

    @property
    def cells(self) -> Tensor:
        return self.all_cells.cells

    def cells_of(self, *, window: int = 0, chunk: int = 0) -> Cells:
        """The cells of layers with this mask: a ring, if that is smaller than the context.

        There is one ring; should layers differ in what they see, those that differ from the first keep everything.
        """
        spans = [n for n in (window, chunk) if n]
        if self._swa_full or not spans:
            return self.all_cells
        mask = {"window": window, "chunk": chunk}
        if self._ring is None:
            n = ring_cells(min(spans), self._n_ubatch, self.n_kv)
            self._ring = self._made(Extent(n, RING), "_swa", **mask) if n < self.n_kv else self.all_cells
        return self._ring if self._ring.cells.attrs == mask else self.all_cells

    def cache(self, blk: Weights, k: Tensor, v: Tensor, cells: Cells | None = None) -> tuple[Tensor, Tensor]:
        """Stores this run's keys and values [tokens, heads, dim]; returns the layer's whole caches."""
        cells = cells or self.all_cells
        keys = self._store(blk, "cache_k", k, self._kv_types[0], cells)
        return keys, self._store(blk, "cache_v", v, self._kv_types[1], cells)

    def cache_k(self, blk: Weights, k: Tensor) -> Tensor:
        """Stores this run's keys only; returns the layer's whole cache of keys."""
        return self._store(blk, "cache_k", k, self._kv_types[0], self.all_cells)

    def _store(self, blk: Weights, name: str, rows: Tensor, dtype: DType, cells: Cells) -> Tensor:
        if rows.shape[-1] % dtype.block:
            sentence = f"rows that divide by {dtype.block}, blk.{blk.layer}.{name} has {rows.shape[-1]}"
            raise OptionError(f"KV cache type {dtype.name.lower()} needs {sentence}")
        type = TensorType(dtype, (cells.n, *rows.shape[1:]))
        cache = Tensor(type, kind="cache", name=f"blk.{blk.layer}.{name}")
        return set_rows(cache, rows, cells.slots, dtype=dtype)


@dataclass(frozen=True)
class Architecture:
    name: str
    config: type[Config]
    build: Build
    derive: Derive | None = None


_REGISTRY: dict[str, Architecture] = {}


def architecture(
    name: str, config: type[Config], *, derive: Derive | None = None
) -> Callable[[Build], Build]:
    """Registers `build(config, weights, inputs) -> logits [n_tokens, n_vocab]` for a general.architecture.

    `derive(config, weights)` names weights that are made from others when first needed; a graph reads them
    as any.
    """

    def register(build: Build) -> Build:
        _REGISTRY[name] = Architecture(name, config, build, derive)
        return build

    return register


def names() -> list[str]:
    """Architectures that ship with graphsched, are installed or are registered, by their GGUF names."""
    for module in _modules():  # a file's name has no dashes and dots: only the file knows its GGUF name
        importlib.import_module(f"graphsched.models.{module}")
    return sorted({*_REGISTRY, *_installed()})


def import_installed() -> None:
    """Imports the architectures of other packages, and with them their ops. LoadError for one that fails."""
    for name in _installed():
        _import_installed(name)


def _installed() -> dict[str, EntryPoint]:
    """Entry points of other packages: `GGUF name = module`."""
    return {point.name: point for point in entry_points(group=GROUP)}


def _import_installed(name: str) -> None:
    point = _installed()[name]
    where = f"architecture {name!r} (entry point {point.value})"
    try:
        point.load()
    except Exception as error:  # another package's code can raise anything
        raise LoadError(f"{where} cannot be imported: {error or type(error).__name__}") from error
    if name not in _REGISTRY:
        raise LoadError(f"{where} is not registered by that module")


def _modules() -> list[str]:
    import graphsched

    return [m.name for m in pkgutil.iter_modules([f"{graphsched.__path__[0]}/models"])]


def get(name: str, source: str) -> Architecture:
    """The architecture by its GGUF name, imported on use. `source` names the file in the error."""
    module = name.replace("-", "_").replace(".", "_")
    if name not in _REGISTRY and module in _modules():
        importlib.import_module(f"graphsched.models.{module}")
    if name not in _REGISTRY and name in _installed():
        _import_installed(name)
    if name not in _REGISTRY:
        raise LoadError(f"{source}: unknown architecture {name!r}; known are {', '.join(names())}")
    return _REGISTRY[name]
