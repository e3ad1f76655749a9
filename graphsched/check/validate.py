"""GRAPHSCHED_VALIDATE=1: plans are checked when they are made, results of nodes when they have run.

Beside the plan runs another of the same graph in which every node is an output, so that all values are there after a
run. Each is computed once more by its numpy reference from the values that it read, and the first node that differs
ends the run, by its name. Both plans must give the same bits: memory that is used twice too early shows. The other plan
has recurrent state of its own, which all of its runs change as the plan's change theirs.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.check.invariants import ValidationError, check_memory, check_schedule
from graphsched.graph.graph import Graph, from_nodes, replace_leaves
from graphsched.graph.ops import cont, reshape
from graphsched.graph.ops.several import row_length
from graphsched.graph.tensor import Tensor, is_state
from graphsched.run.executable import Executable
from graphsched.run.runnable import PlanFactory, Runnable
from graphsched.types.shapes import Lengths

Array = NDArray[Any]
# NMSE from which a node is wrong: rounding activations to 8 bits stays an order below, a wrong row is far above.
TOLERANCE: Final = 2e-3


class Validated:
    """An executable that checks every node after each run.

    graph: the plan's over states of its own. kept: that graph with a copy of each state as it is in front of a run, and
    every node behind these, as outputs.
    """

    def __init__(self, plain: Runnable, kept: Runnable, graph: Graph, factory: PlanFactory) -> None:
        self._plain, self._kept, self._graph, self._factory = plain, kept, graph, factory
        self._states = states_of(graph)
        self._outputs: tuple[Array, ...] = ()

    @property
    def outputs(self) -> tuple[Array, ...]:
        """The arrays that the last run wrote, one per output of the graph."""
        return self._outputs

    def run(self, lengths: Mapping[str, int]) -> None:
        """Runs with actual lengths, then computes every node again. ValidationError for the first that differs."""
        self._plain.run(lengths)
        self._check(lengths)

    def _check(self, lengths: Mapping[str, int]) -> None:
        given = self._outputs = tuple(
            o.copy() for o in self._plain.outputs
        )  # the other plan has the same memory
        self._kept.run(lengths)
        if self._factory.is_aborted():
            return
        actual, values = Lengths(lengths), iter(self._kept.outputs)
        before = {leaf: next(values).reshape(leaf.shape) for leaf in self._states}
        found = {n: _cut(x, n, actual) for n, x in zip(self._graph.nodes, values, strict=True)} | before
        for node in self._graph.nodes:
            value, changes = found[node], node.traits.writes_cache or node.traits.updates
            if not changes and any(s.kind == "cache" for s in node.sources):
                continue  # it read what a node of another run wrote, and may have been written since
            sources = [
                found[s] if s.kind == "node" else self._leaf(s, node, found, actual) for s in node.sources
            ]
            self._compare(node, value, sources, actual)
        for output, value in zip(self._graph.outputs, given, strict=True):
            if not np.array_equal(_cut(value, output, actual), found[output]):
                name = self._graph.names[output]
                raise ValidationError(f"output {name} is another where no memory is used twice")

    def _leaf(self, leaf: Tensor, node: Tensor, found: Mapping[Tensor, Array], actual: Lengths) -> Array:
        """The value of a leaf that a node read: state as it was in front of the run, a copy that may be changed.

        A cache is as it is after the run, as writing it again changes nothing.
        """
        if leaf.kind == "weight":
            return self._factory.weight(leaf)
        if leaf in self._states:
            return found[leaf].copy()
        if leaf.kind == "cache":
            return found[node]
        return _cut(self._factory.input(leaf), leaf, actual)

    def _compare(self, node: Tensor, value: Array, sources: list[Array], actual: Lengths) -> None:
        name = f"{self._graph.names[node]} ({node.op.name})"
        if value.dtype != np.int32 and not _is_finite(value):
            raise ValidationError(f"node {name} has values that are not finite, {_first_bad(value)}")
        attrs = {k: actual.shape(v) if isinstance(v, tuple) else v for k, v in node.attrs.items()}
        expected = node.declaration.evaluate(*(_wide(s) for s in sources), **attrs)
        if expected.shape != value.shape:
            shapes = f"{list(value.shape)}, its reference {list(expected.shape)}"
            raise ValidationError(f"node {name} has the shape {shapes}")
        if (error := _difference(value, expected)) > TOLERANCE:
            raise ValidationError(f"node {name} differs from its reference by an NMSE of {error:.3g}")


def validated(plain: Runnable, executable: Executable, graph: Graph, factory: PlanFactory) -> Validated:
    """`plain`, which runs an executable of a graph, with checks behind each run.

    ValidationError if the executable's schedule or memory is wrong.
    """
    check_schedule(executable.schedule)
    check_memory(executable)
    own = replace_leaves(graph, _own_state)
    return Validated(plain, factory.compile(factory.schedule(_keeping(own))), own, factory)


def states_of(graph: Graph) -> tuple[Tensor, ...]:
    """The recurrent states of a graph."""
    return tuple(filter(is_state, graph.leaves))


def _own_state(leaf: Tensor) -> Tensor:
    return replace(leaf, name=f"{leaf.name} of validation") if is_state(leaf) else leaf


def _keeping(graph: Graph) -> Graph:
    """The graph whose outputs are copies of its states, made in front of everything, and all of its nodes."""
    views = [reshape(state, shape=(state.shape[0], row_length(state.type))) for state in states_of(graph)]
    # Passes order nodes by their serial numbers.
    views = [replace(view, serial=-2) for view in views]
    copies = [replace(cont(view), serial=-1) for view in views]
    return from_nodes((*views, *copies, *graph.nodes), (*copies, *graph.nodes))


def _cut(value: Array, tensor: Tensor, actual: Lengths) -> Array:
    """A value cut from its capacity to its actual length."""
    return value[tuple(slice(n) for n in actual.shape(tensor.shape))] if value.ndim else value


def _wide(value: Array) -> Array:
    """The value as references take it: int32 or float32."""
    return value if value.dtype == np.int32 else value.astype(np.float32)


def _is_finite(value: Array) -> bool:
    """No NaN and no infinity, but for minus infinity, which is how an op says that something is masked."""
    return not (np.isnan(value) | np.isposinf(value)).any()


def _first_bad(value: Array) -> str:
    at = np.argwhere(np.isnan(value) | np.isposinf(value))[0].tolist()
    return f"the first at {at} of {list(value.shape)}"


def _difference(value: Array, expected: Array) -> float:
    """NMSE; of integers the share that differs. Infinities count where only one side has them."""
    if value.dtype == np.int32:
        return float((value != expected).mean()) if value.size else 0.0
    wide, right = value.astype(np.float64), expected.astype(np.float64)
    both = np.isneginf(wide) & np.isneginf(right)
    wide, right = np.where(both, 0, wide), np.where(both, 0, right)
    scale = float((right * right).sum())
    return float(((wide - right) ** 2).sum()) / (scale or 1.0)
