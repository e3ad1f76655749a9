"""What an architecture needs of a file: keys, tensors, ops, and what it keeps of a sequence."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from graphsched.arch.config import MISSING, names_of
from graphsched.arch.registry import Architecture
from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Extent, Tensor, is_state
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions
from graphsched.types.extents import N_KV_SWA

WHOLE = SessionOptions(n_ctx=0, n_ubatch=32)  # the context of the training, in which windows keep less


@dataclass(frozen=True)
class Key:
    """A key of a file by its full name; `default`: None where it is required, "..." where it follows from others."""

    name: str
    default: str | None


@dataclass(frozen=True)
class Needs:
    """Tensors that each layer which asks for them has, those that some lack, ops of the graph, and what is kept.

    Names of layers' tensors begin with `blk.N.`. Each list is sorted.
    """

    tensors: tuple[str, ...]
    optional: tuple[str, ...]
    ops: tuple[str, ...]
    keeps: tuple[str, ...]


def keys_of(architecture: Architecture) -> Iterator[Key]:
    """The keys that an architecture reads, in the order of its config."""
    for f in fields(architecture.config):
        if f.metadata:
            yield Key(names_of(f, architecture.name)[0], _default(f))


def _default(f: "Field[Any]") -> str | None:
    default = f.metadata["default"]
    if default is MISSING:
        return None
    return "..." if callable(default) else str(default)


def needs_of(model: Model) -> Needs:
    """What a model's architecture asks of its file, by the graph of its whole context."""
    graph = model.graph(1, 1, model.context(WHOLE), WHOLE)
    asked = {name for name in model.asked if model.architecture.reads(name)}
    there = asked & {*model.file.tensors}
    lacking = {_in_any_layer(name) for name in asked - there}
    every = {_in_any_layer(name) for name in there}
    ops = {node.op.name for node in graph.nodes if node.op is not None and not node.traits.view}
    return Needs(
        tuple(sorted(every - lacking)),
        tuple(sorted(lacking)),
        tuple(sorted(ops)),
        tuple(sorted(_kept(graph))),
    )


def united(first: Needs, second: Needs) -> Needs:
    """What two files of an architecture need together: a tensor that one of them lacks is optional."""
    optional = {*first.optional, *second.optional} | ({*first.tensors} ^ {*second.tensors})
    either = {*first.tensors, *second.tensors}
    ops, keeps = {*first.ops, *second.ops}, {*first.keeps, *second.keeps}
    parts = (either - optional, optional, ops, keeps)
    return Needs(*(tuple(sorted(part)) for part in parts))


def _in_any_layer(name: str) -> str:
    return re.sub(r"^blk\.\d+\.", "blk.N.", name)


def _kept(graph: Graph) -> Iterator[str]:
    """What is kept of a sequence, a text for each kind."""
    kinds: dict[str, set[str]] = {}
    for leaf in (leaf for leaf in graph.leaves if leaf.kind == "cache"):
        kinds.setdefault(_kind(leaf), set()).add(leaf.name.rpartition(".")[2])
    return (f"{' and '.join(sorted(names))} {kind}" for kind, names in kinds.items())


def _kind(cache: Tensor) -> str:
    cells = cache.shape[0]
    if is_state(cache):
        return "as a state"
    return "of a window" if isinstance(cells, Extent) and cells.word == N_KV_SWA else "of all positions"


def missing_keys(keys: Iterable[Key], metadata: Mapping[str, Any]) -> list[str]:
    """The required keys that a file's metadata lack."""
    return [key.name for key in keys if key.default is None and key.name not in metadata]
