"""Squared activations in front of each weight, summed up while a model reads a text: an importance matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.graph import Graph
from graphsched.graph.tensor import Tensor
from graphsched.quantize.collected import Collected
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions

Array = NDArray[Any]


@dataclass(frozen=True)
class _Entry:
    """A weight's matrices, and which of the observed values are its activations and the ids that choose from it."""

    weight: str
    matrices: int
    is_by_head: bool
    activations: int
    ids: int | None


class Activations:
    """Observes the products of a session's graphs with weights; `collected` is what it has seen.

    Weights of layers are collected; with `outputs` those outside of layers, too.
    """

    def __init__(self, outputs: bool = False) -> None:
        self._outputs = outputs
        self._entries: tuple[_Entry, ...] = ()
        self.sums: dict[str, NDArray[np.float64]] = {}
        self.counts: dict[str, NDArray[np.int64]] = {}

    def wanted(self, graph: Graph) -> tuple[Tensor, ...]:
        """Activations and ids of all products with weights; the same in graphs of all capacities."""
        places: dict[Tensor, int] = {}
        found: dict[tuple[str, int], _Entry] = {}
        for node in graph.nodes:
            for weight, x, ids in self._products(node):
                at, by = places.setdefault(x, len(places)), None
                if ids is not None:
                    by = places.setdefault(ids, len(places))
                matrices = int(np.prod(weight.shape[:-2], dtype=np.int64))
                by_head = ids is None and len(weight.shape) > 2
                # Parts of one matrix have the same activations, which count once.
                found.setdefault((weight.name, at), _Entry(weight.name, matrices, by_head, at, by))
        self._entries = tuple(found.values())
        return tuple(places)

    def _products(self, node: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        traits = node.traits
        weights = [w for w in node.operands(traits.product) if w.kind == "weight"]
        if not weights or not (self._outputs or weights[0].name.startswith("blk.")):
            return []
        ids = node.operand(traits.chosen_by) if traits.chosen_by else None
        x = next(s for s in node.sources if s not in weights and s is not ids)
        return [(w, x, ids) for w in weights]

    def take(self, values: Sequence[Array]) -> None:
        """Adds the rows of a run."""
        squares: dict[int, Array] = {}
        for e in self._entries:
            if e.activations not in squares:
                x = values[e.activations].astype(np.float64)
                squares[e.activations] = x * x
            x = squares[e.activations]
            sums, counts = self._of(e, x.shape[-1])
            if e.ids is not None:
                _add_chosen(sums, counts, x, values[e.ids])
            elif e.is_by_head:
                counts += len(x)
                sums += x.sum(axis=0).reshape(e.matrices, -1, x.shape[-1]).sum(axis=1)
            else:
                counts += x.size // x.shape[-1]
                sums += x.reshape(-1, x.shape[-1]).sum(axis=0)

    def _of(self, e: _Entry, columns: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        if e.weight not in self.sums:
            self.sums[e.weight] = np.zeros((e.matrices, columns))
            self.counts[e.weight] = np.zeros(e.matrices, np.int64)
        return self.sums[e.weight], self.counts[e.weight]

    def collected(self, datasets: tuple[str, ...], chunks: int, chunk_size: int) -> Collected:
        """What was seen, in pieces of a text that has a name."""
        sums = {name: values.astype(np.float32) for name, values in self.sums.items()}
        return Collected(sums, {n: c.copy() for n, c in self.counts.items()}, datasets, chunks, chunk_size)


def stored_way(model: Model, options: SessionOptions) -> SessionOptions:
    """The options with a way of latent attention whose products are with matrices of the file, if there is one.

    Sums for matrices that are derived from others would be of no use: they are not what is quantised.
    """
    for mla in dict.fromkeys((options.mla, 0, 1)):
        tried = replace(options, mla=mla)
        graph = model.graph(1, 1, model.context(tried), tried)
        weights = (
            w for node in graph.nodes for w in node.operands(node.traits.product) if w.kind == "weight"
        )
        if all(w.name in model.file.tensors for w in weights):
            return tried
    return options


def _add_chosen(sums: Array, counts: Array, squares: Array, ids: Array) -> None:
    """Adds squares [rows, 1 or used, columns] to the experts [rows, used] that saw them; ids outside mean none."""
    squares = np.broadcast_to(squares, (*ids.shape, squares.shape[-1]))
    for expert in np.unique(ids):
        if 0 <= expert < len(counts):
            chosen = ids == expert
            counts[expert] += np.count_nonzero(chosen)
            sums[expert] += squares[chosen].sum(axis=0)
