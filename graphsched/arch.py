"""What an architecture file is written with: config keys, weights by their GGUF names, inputs, the decorator."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from graphsched.dtypes import DType
from graphsched.errors import LoadError
from graphsched.ops import set_rows
from graphsched.tensor import Extent, Tensor, TensorType, i32, input_tensor, weight

if TYPE_CHECKING:
    from graphsched.loader import ModelFile

MISSING = object()
Build = Callable[[Any, "Weights", "Inputs"], Tensor]


def key(name: str, default: Any = MISSING) -> Any:
    """A config field read from the GGUF key `<architecture>.<name>`; without a default the key is required.

    The default may be a function of the fields read before it (as a namespace).
    """
    return field(metadata={"key": name, "default": default})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters; subclasses add fields with `key`."""

    n_layer: int = key("block_count")
    n_embd: int = key("embedding_length")
    n_ctx_train: int = key("context_length", 0)
    n_vocab: int = key("vocab_size", 0)


C = TypeVar("C", bound=Config)


def read_config(cls: type[C], file: "ModelFile", arch: str) -> C:
    """Reads every field of a config from a file's metadata; a missing or mistyped key is a LoadError."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for f in fields(cls):
        name, default = f"{arch}.{f.metadata['key']}", f.metadata["default"]
        if name in file.metadata or default is MISSING:
            values[f.name] = file.get(name, hints[f.name])
        else:
            values[f.name] = default(_Namespace(values)) if callable(default) else default
    return cls(**values)


class _Namespace:
    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


class Weights:
    """A level of the GGUF name space: `w.blk[3].attn_q` is `blk.3.attn_q.weight`, and absence is `"output" in w`."""

    def __init__(
        self, types: Mapping[str, TensorType], source: str, prefix: str = "", n_layer: int = 0
    ) -> None:
        self._types, self._source, self._prefix, self._n_layer = types, source, prefix, n_layer
        self._leaves: dict[str, Tensor] = {}

    @property
    def layer(self) -> int:
        """The number of this layer (a level `blk.3` only)."""
        return int(self._prefix.split(".")[1])

    @property
    def blk(self) -> list["Weights"]:
        return [Weights(self._types, self._source, f"blk.{i}.") for i in range(self._n_layer)]

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

    def _full(self, name: str) -> str:
        return self._prefix + (name if "." in name else f"{name}.weight")


class Inputs:
    """What a run feeds: token ids, positions, and the cells of the KV cache.

    tokens i32[n_tokens], pos i32[n_tokens], where i32[n_tokens, 2] = (sequence, position) of each token,
    cells i32[n_kv, 2] = (sequence, position) of each cache cell (-1 if free), slots i32[n_tokens] = the cell that each
    token is stored in, out_ids i32[n_outputs] = rows whose logits are wanted.
    """

    def __init__(self, n_tokens: int, n_outputs: int, n_kv: int, kv_types: tuple[DType, DType]) -> None:
        t, o, c = Extent(n_tokens, "n_tokens"), Extent(n_outputs, "n_outputs"), Extent(n_kv, "n_kv")
        self.n_kv, self._kv_types = c, kv_types
        self.tokens = input_tensor("inp_tokens", i32(t))
        self.pos = input_tensor("inp_pos", i32(t))
        self.where = input_tensor("inp_where", i32(t, 2))
        self.cells = input_tensor("inp_cells", i32(c, 2))
        self.slots = input_tensor("inp_slots", i32(t))
        self.out_ids = input_tensor("inp_out_ids", i32(o))

    def cache(self, blk: Weights, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores this run's keys and values [tokens, heads, dim]; returns the layer's whole caches."""
        return self._store(blk, "cache_k", k, self._kv_types[0]), self._store(
            blk, "cache_v", v, self._kv_types[1]
        )

    def _store(self, blk: Weights, name: str, rows: Tensor, dtype: DType) -> Tensor:
        type = TensorType(dtype, (self.n_kv, *rows.shape[1:]))
        cache = Tensor(type, kind="cache", name=f"blk.{blk.layer}.{name}")
        return set_rows(cache, rows, self.slots, dtype=dtype)


@dataclass(frozen=True)
class Architecture:
    name: str
    config: type[Config]
    build: Build


_REGISTRY: dict[str, Architecture] = {}


def architecture(name: str, config: type[Config]) -> Callable[[Build], Build]:
    """Registers `build(config, weights, inputs) -> logits [n_tokens, n_vocab]` for general.architecture `name`."""

    def register(build: Build) -> Build:
        _REGISTRY[name] = Architecture(name, config, build)
        return build

    return register


def names() -> list[str]:
    """Architectures that ship with graphsched or are registered."""
    import graphsched

    folder = f"{graphsched.__path__[0]}/models"
    found = {m.name.replace("_", "-") for m in pkgutil.iter_modules([folder])}
    return sorted(found | set(_REGISTRY))


def get(name: str, source: str) -> Architecture:
    """The architecture by its GGUF name; its module is imported on use. `source` names the file in the error."""
    if name not in _REGISTRY and name.replace("-", "_").isidentifier():
        module = f"graphsched.models.{name.replace('-', '_').replace('.', '_')}"
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
    if name not in _REGISTRY:
        raise LoadError(f"{source}: unknown architecture {name!r}; known are {', '.join(names())}")
    return _REGISTRY[name]
