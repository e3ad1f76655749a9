"""Architectures by their GGUF names: the decorator that registers one, and how one is found."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from graphsched.arch.config import Config
from graphsched.arch.inputs import Inputs
from graphsched.arch.stored import Derived
from graphsched.arch.weights import Weights
from graphsched.errors import LoadError
from graphsched.graph.tensor import Tensor

GROUP = "graphsched.architectures"  # of entry points
MODELS = "graphsched.models"  # the package whose modules are the architectures that ship
QKV: Final = ("attn_q", "attn_k", "attn_v")
# Matrices whose products a file may scale: where an architecture does not say otherwise, and all.
SCALED: Final = (*QKV, "attn_qkv", "attn_output", "output")
EVERY_SCALE: Final = ("",)
Build = Callable[[Any, Weights, Inputs], Tensor]
Derive = Callable[[Any, Weights], Iterable[tuple[str, Derived]]]


@dataclass(frozen=True)
class Architecture:
    name: str
    config: type[Config]
    build: Build
    derive: Derive | None = None
    scaled: tuple[str, ...] = SCALED

    def reads(self, tensor: str) -> bool:
        """Whether the architecture reads a tensor of this name, if a file has it: not so scales of other matrices."""
        matrix = tensor.removesuffix(".scale").rpartition(".")[2]
        return not tensor.endswith(".scale") or self.scaled == EVERY_SCALE or matrix in self.scaled


_REGISTRY: dict[str, Architecture] = {}


def architecture(
    name: str,
    config: type[Config],
    *,
    derive: Derive | None = None,
    scaled: tuple[str, ...] = SCALED,
) -> Callable[[Build], Build]:
    """Registers `build(config, weights, inputs) -> logits [n_tokens, n_vocab]` for a general.architecture.

    `derive(config, weights)` names weights that are made from others when first needed; a graph reads them
    as any. `scaled`: the matrices whose products a file may scale by a number, `X.scale`; llama.cpp ignores others.
    """

    def register(build: Build) -> Build:
        _REGISTRY[name] = Architecture(name, config, build, derive, scaled)
        return build

    return register


def names() -> list[str]:
    """Architectures that ship with graphsched, are installed or are registered, by their GGUF names."""
    for module in _modules():  # a file's name has no dashes and dots: only the file knows its GGUF name
        importlib.import_module(f"{MODELS}.{module}")
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
    return [m.name for m in pkgutil.iter_modules(importlib.import_module(MODELS).__path__)]


def nearest(name: str) -> list[str]:
    """The three known architectures whose names are most like this one, the likest first."""
    return get_close_matches(name, names(), n=3, cutoff=0.0)


def get(name: str, source: str) -> Architecture:
    """The architecture by its GGUF name, imported on use. `source` names the file in the error."""
    module = name.replace("-", "_").replace(".", "_")
    if name not in _REGISTRY and module in _modules():
        importlib.import_module(f"{MODELS}.{module}")
    if name not in _REGISTRY and name in _installed():
        _import_installed(name)
    if name not in _REGISTRY:
        near = ", ".join(nearest(name))
        raise LoadError(
            f"{source}: unknown architecture {name!r}; nearest are {near}; `graphsched models` lists all"
        )
    return _REGISTRY[name]
