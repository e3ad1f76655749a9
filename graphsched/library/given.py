"""Arguments of `plan` and `run` checked against the graph: homes, lengths, weights and inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError, ShapeError
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.schedule.overrides import on_devices, parse_overrides
from graphsched.types.devices import HOST
from graphsched.types.shapes import Extent

Values = Mapping[str, NDArray[Any]]
Homes = Mapping[str, str] | str


def homes_of(homes: Homes, graph: Graph, devices: tuple[str, ...]) -> Mapping[str, str]:
    """The device of each weight and cache of a graph: the host, where nothing is said. OptionError for bad ones."""
    names = [leaf.name for leaf in graph.leaves if leaf.kind in ("weight", "cache")]
    if isinstance(homes, str):
        return _by_pattern(homes, names, devices)
    there = (*devices, HOST)
    for name, device in homes.items():
        if name not in names:
            raise OptionError(f"has {name!r}, the graph has {', '.join(names) or 'no weights'}", "homes")
        if device not in there:
            raise OptionError(f"has {name!r} on {device!r}; there are {', '.join(there)}", "homes")
    return {name: homes.get(name, HOST) for name in names}


def _by_pattern(text: str, names: list[str], devices: tuple[str, ...]) -> Mapping[str, str]:
    try:
        rules = on_devices(parse_overrides(text), devices)
    except OptionError as e:
        raise OptionError(e.what, "homes") from None
    return {name: next((r.device for r in rules if r.pattern.search(name)), HOST) for name in names}


def capacities(graph: Graph) -> dict[str, int]:
    """The capacity of each extent, by its word."""
    tensors = (*graph.leaves, *graph.nodes)
    return {d.word: int(d) for t in tensors for d in t.shape if isinstance(d, Extent)}


def actual_lengths(graph: Graph, given: Mapping[str, int]) -> Mapping[str, int]:
    """The actual length of each extent: its capacity, where nothing is said. OptionError for bad ones."""
    most = capacities(graph)
    for word, n in given.items():
        if word not in most or not 0 < n <= most[word]:
            there = ", ".join(f"{w} from 1 to {c}" for w, c in most.items()) or "none"
            raise OptionError(f"has {word} {n}, the graph has {there}", "lengths")
    return most | dict(given)


def weight_bytes(weights: Values, leaf: Tensor) -> NDArray[np.uint8]:
    """A weight's bytes, 1-D, from its values or its bytes. ShapeError for a wrong shape, and if there are none."""
    values = np.asarray(_named(weights, leaf))
    if values.dtype == np.uint8 and values.nbytes == leaf.type.nbytes:
        return np.ascontiguousarray(values).reshape(-1)
    _check(values, leaf, tuple(map(int, leaf.shape)))
    return leaf.dtype.quantize(np.ascontiguousarray(values))


def input_values(inputs: Values, leaf: Tensor) -> NDArray[Any]:
    """An input's values: at most as many rows as its capacity. ShapeError for a wrong shape, and if there are none."""
    values = np.asarray(_named(inputs, leaf))
    shape = tuple(map(int, leaf.shape))
    if leaf.shape and isinstance(leaf.shape[0], Extent) and values.shape and len(values) <= shape[0]:
        shape = (len(values), *shape[1:])
    _check(values, leaf, shape)
    return values


def _named(given: Values, leaf: Tensor) -> Any:
    if leaf.name not in given:
        raise ShapeError(f"there are no values for {leaf.kind} {leaf.name!r}")
    return given[leaf.name]


def _check(values: NDArray[Any], leaf: Tensor, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ShapeError(f"{leaf.kind} {leaf.name!r} has shape {list(values.shape)}, {list(shape)} is needed")
