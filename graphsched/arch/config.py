"""Hyper-parameters: a dataclass whose fields are GGUF keys, read and checked."""

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields, replace
from types import UnionType
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_type_hints

import numpy as np

from graphsched.errors import LoadError
from graphsched.gguf.format import shown

if TYPE_CHECKING:
    from graphsched.gguf.loader import ModelFile

MISSING = object()
LARGEST = 2**31 - 1  # no count or length of any model comes near it


def key(
    name: str,
    default: Any = MISSING,
    *,
    low: float = 0,
    high: float = LARGEST,
    or_key: str = "",
    per_layer: bool = False,
    prefixed: bool = True,
) -> Any:
    """A config field read from the GGUF key `<architecture>.<name>`; without a default the key is required.

    The default may be a function of the fields read before it (as a namespace). Numbers are in [low, high].
    `or_key` is read if the file lacks the key: a former name of it, or one that says the same in older files.
    `per_layer`: the file may have a list of one number per layer; `Config.at` gives a layer's.
    `prefixed`: False for the few keys that have no architecture in front.
    """
    names = {"key": name, "or_key": or_key, "prefixed": prefixed}
    return field(metadata={"default": default, "low": low, "high": high, "per_layer": per_layer, **names})


def names_of(f: "Field[Any]", arch: str) -> list[str]:
    """The names under which a file may have a field, those to prefer first."""
    prefix = f"{arch}." if f.metadata["prefixed"] else ""
    return [f"{prefix}{name}" for name in (f.metadata["key"], f.metadata["or_key"]) if name]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters; subclasses add fields with `key`, or fix one with a plain default."""

    n_layer: int = key("block_count", low=1)
    n_embd: int = key("embedding_length", low=1)
    n_ctx_train: int = key("context_length", 0)
    n_draft: int = key("nextn_predict_layers", 0)
    ln_eps: float = 0.0  # of LayerNorm; norms are RMS norms where it is 0, or rms_eps is not

    @property
    def n_run(self) -> int:
        """Layers that compute the logits: without trailing ones that draft further tokens."""
        return self.n_layer - self.n_draft

    def at(self, layer: int) -> Self:
        """The config of one layer: a field that has a list of one number per layer is that layer's number."""
        lists = {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("per_layer")}
        return replace(
            self, **{name: v[layer].item() for name, v in lists.items() if isinstance(v, np.ndarray)}
        )

    def wrong(self) -> Iterator[tuple[str, str]]:
        """Yields (field, what is needed) for each field that does not fit the others; checked when a file is read."""
        if self.n_draft >= self.n_layer:
            yield "n_draft", f"less than the {self.n_layer} layers"


C = TypeVar("C", bound=Config)


def read_config(cls: type[C], file: "ModelFile", arch: str) -> C:
    """Reads every field of a config from metadata; a missing, mistyped or impossible key is a LoadError."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for f in fields(cls):
        if not f.metadata:  # what files do not tell: the same in all of an architecture
            values[f.name] = f.default
            continue
        values[f.name] = _value(f, hints[f.name], file, arch, _Namespace(values))
        if (needed := _needed(f, values[f.name], values.get("n_layer", 0))) is not None:
            raise _error(file, arch, f, values[f.name], needed)
    config = cls(**values)
    by_name = {f.name: f for f in fields(cls)}
    for layer in _distinct_layers(config):
        for name, needed in layer.wrong():
            raise _error(file, arch, by_name[name], getattr(layer, name), needed)
    return config


def _distinct_layers(config: C) -> Iterator[C]:
    """The config, once for each set of numbers that its layers have."""
    values = [getattr(config, f.name) for f in fields(config) if f.metadata.get("per_layer")]
    lists = [v for v in values if isinstance(v, np.ndarray)]
    numbers = list(zip(*(v[: config.n_layer].tolist() for v in lists), strict=True)) if lists else [()]
    return (config.at(numbers.index(distinct)) for distinct in dict.fromkeys(numbers))


class _Namespace:
    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def _value(f: "Field[Any]", hint: Any, file: "ModelFile", arch: str, before: _Namespace) -> Any:
    default = f.metadata["default"]
    names = names_of(f, arch)
    name = next((n for n in names if n in file.metadata), names[0])
    if name not in file.metadata and default is not MISSING:
        return default(before) if callable(default) else default
    union = hint.__args__ if isinstance(hint, UnionType) else (hint,)
    kinds = [
        getattr(k, "__origin__", k) for k in union
    ]  # of a union: the kind that the file has, else the first
    if f.metadata["per_layer"]:
        kinds.append(np.ndarray)
    kind = next((k for k in kinds if type(file.metadata.get(name)) is k), kinds[0])
    return file.get(name, kind)


def _needed(f: "Field[Any]", value: Any, n_layer: int) -> str | None:
    """What the field needs, in words, if the value is out of its range; else None."""
    low, high = f.metadata["low"], f.metadata["high"]
    if f.metadata["per_layer"] and isinstance(value, np.ndarray):
        if len(value) < n_layer:
            return f"a number or one for each of {n_layer} layers"
        return next(filter(None, (_needed(f, n, n_layer) for n in value.tolist())), None)
    if isinstance(value, int) and not isinstance(value, bool) and not low <= value <= high:
        return f"an integer from {low} to {high}"
    if isinstance(value, float) and not (math.isfinite(value) and low <= value <= high):
        return f"a number from {low:g} to {high:g}"
    return None


def _error(file: "ModelFile", arch: str, f: "Field[Any]", value: Any, needed: str) -> LoadError:
    name = names_of(f, arch)[0]
    given = "an array" if isinstance(value, np.ndarray) else shown(value) if isinstance(value, str) else value
    state = f"is {given}" if name in file.metadata else f"is absent and would be {given}"
    return LoadError(f"{file.path.name}: key {name} {state}, {needed} is needed")
