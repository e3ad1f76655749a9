"""Hyper-parameters: a dataclass whose fields are GGUF keys, read and checked."""

import math
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import numpy as np

from graphsched.errors import LoadError
from graphsched.gguf.format import shown

if TYPE_CHECKING:
    from graphsched.gguf.loader import ModelFile

MISSING = object()
LARGEST = 2**31 - 1  # no count or length of any model comes near it


def key(name: str, default: Any = MISSING, *, low: float = 0, high: float = LARGEST, or_key: str = "") -> Any:
    """A config field read from the GGUF key `<architecture>.<name>`; without a default the key is required.

    The default may be a function of the fields read before it (as a namespace). Numbers are in [low, high].
    `or_key` is read if the file lacks the key: a former name of it, or one that says the same in older files.
    """
    return field(metadata={"key": name, "default": default, "low": low, "high": high, "or_key": or_key})


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters; subclasses add fields with `key`."""

    n_layer: int = key("block_count", low=1)
    n_embd: int = key("embedding_length", low=1)
    n_ctx_train: int = key("context_length", 0)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """(field, what is needed) of each field that does not fit the others."""
        yield from ()


C = TypeVar("C", bound=Config)


def read_config(cls: type[C], file: "ModelFile", arch: str) -> C:
    """Reads every field of a config from metadata; a missing, mistyped or impossible key is a LoadError."""
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for f in fields(cls):
        values[f.name] = _value(f, hints[f.name], file, arch, _Namespace(values))
        if (needed := _needed(f, values[f.name])) is not None:
            raise _error(file, arch, f, values[f.name], needed)
    config = cls(**values)
    by_name = {f.name: f for f in fields(cls)}
    for name, needed in config.wrong():
        raise _error(file, arch, by_name[name], values[name], needed)
    return config


class _Namespace:
    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def _value(f: "Field[Any]", hint: Any, file: "ModelFile", arch: str, before: _Namespace) -> Any:
    default = f.metadata["default"]
    names = [f"{arch}.{n}" for n in (f.metadata["key"], f.metadata["or_key"]) if n]
    name = next((n for n in names if n in file.metadata), names[0])
    if name not in file.metadata and default is not MISSING:
        return default(before) if callable(default) else default
    union = hint.__args__ if isinstance(hint, UnionType) else (hint,)
    kinds = [
        getattr(k, "__origin__", k) for k in union
    ]  # of a union: the kind that the file has, else the first
    kind = next((k for k in kinds if type(file.metadata.get(name)) is k), kinds[0])
    return file.get(name, kind)


def _needed(f: "Field[Any]", value: Any) -> str | None:
    """What a number outside its field's range should be."""
    low, high = f.metadata["low"], f.metadata["high"]
    if isinstance(value, int) and not isinstance(value, bool) and not low <= value <= high:
        return f"an integer from {low} to {high}"
    if isinstance(value, float) and not (math.isfinite(value) and low <= value <= high):
        return f"a number from {low:g} to {high:g}"
    return None


def _error(file: "ModelFile", arch: str, f: "Field[Any]", value: Any, needed: str) -> LoadError:
    name = f"{arch}.{f.metadata['key']}"
    given = "an array" if isinstance(value, np.ndarray) else shown(value) if isinstance(value, str) else value
    state = f"is {given}" if name in file.metadata else f"is absent and would be {given}"
    return LoadError(f"{file.path.name}: key {name} {state}, {needed} is needed")
