"""Models without some of their layers: those behind them move up."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from graphsched.errors import OptionError
from graphsched.gguf.format import printable, shown
from graphsched.gguf.loader import ModelFile, open_model
from graphsched.gguf.override import Override
from graphsched.graph.tensor import layer_of

FLAG = "--prune-layers"


def parse_layers(text: str) -> frozenset[int]:
    """Numbers of layers, parted by commas."""
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise OptionError(
            f"{FLAG} is {printable(text) or 'empty'}, numbers of layers are needed, as in 3,4,7"
        )
    return frozenset(map(int, text.split(",")))


def open_pruned(
    path: Path, layers: Collection[int], overrides: Sequence[Override] = ()
) -> tuple[ModelFile, Mapping[str, str]]:
    """The open model without these layers, and its tensors' names by those that they have in the file ({} if all stay).

    OptionError for a layer that there is not, for all of them, and where keys have a value for each layer.
    """
    if not layers:
        return open_model(path, overrides=overrides), {}
    with open_model(path, header_only=True, overrides=overrides) as file:
        count = _count(file, layers)
    file = open_model(path, overrides=(*overrides, count))
    kept = [i for i in range(int(count.value) + len(layers)) if i not in layers]
    names = {name: new for name in file.tensors if (new := _renamed(name, kept, layers))}
    file.tensors = MappingProxyType({new: replace(file.tensors[old], name=new) for old, new in names.items()})
    return file, names


def _count(file: ModelFile, layers: Collection[int]) -> Override:
    """The number of layers that are left."""
    arch, where = file.get("general.architecture", str), printable(file.path.name)
    key = f"{arch}.block_count"
    n = file.get(key, int)
    if beyond := [i for i in sorted(layers) if i >= n]:
        raise OptionError(f"{FLAG}: {where} has {n} layers, there is none of number {beyond[0]}")
    if len(layers) == n:
        raise OptionError(f"{FLAG}: no layer of {where} would be left")
    each = [
        k
        for k, v in file.metadata.items()
        if isinstance(v, np.ndarray | tuple) and _is_by_layer(k, v, arch, n)
    ]
    if each:
        raise OptionError(
            f"{FLAG}: {where} has {shown(each[0])} for each layer, which only another writer can change"
        )
    return Override(key, n - len(layers), f"{FLAG} {','.join(map(str, sorted(layers)))}")


def _is_by_layer(key: str, value: np.ndarray | tuple[str, ...], arch: str, n: int) -> bool:
    return key.startswith(f"{arch}.") and len(value) == n


def _renamed(name: str, kept: Sequence[int], layers: Collection[int]) -> str:
    """A tensor's name in the new model, empty if its layer goes."""
    layer = layer_of(name)
    if layer in layers:
        return ""
    return name if layer < 0 else name.replace(f"blk.{layer}.", f"blk.{kept.index(layer)}.", 1)
