"""Ops defined by the nodes that they fuse: with several results, or with one.

A node has one result. That of a multi-result op is the rows of all results side by side, in float32, and PART nodes
read one result each out of it. Kernels write each result into a buffer of its own, so a PART is as dense as the result
of an ordinary node.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from graphsched.graph.opdef import Array, Case, Op, OpDef, P, as_f32, op, require
from graphsched.graph.tensor import Tensor, TensorType, f32, input_tensor
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

Compose = Callable[P, tuple[Tensor, ...]]


def several(number: int, rowwise: bool = True, **traits: Any) -> Callable[[Compose[P]], OpDef[P]]:
    """Declares an op by a function that builds the nodes which compute its results, all of the same number of rows.

    Type, reference and operation count follow from these nodes; bytes are those of operands and results. ShapeError if
    the results differ in their rows.
    """

    def declare(compose: Compose[P]) -> OpDef[P]:
        def infer(*args: P.args, **kwargs: P.kwargs) -> TensorType:
            types = [node.type for node in compose(*args, **kwargs)]
            if len(types) == 1:
                return types[0]
            require(len({t.shape[0] for t in types}) == 1, "{}: results differ in their rows", made.name)
            return f32(types[0].shape[0], sum(map(row_length, types)))

        infer.__name__, infer.__doc__ = compose.__name__, compose.__doc__
        infer.__module__ = compose.__module__
        infer.__wrapped__ = compose  # type: ignore[attr-defined]  # whose signature the op has
        made = op(number, rowwise=rowwise, **traits)(infer)
        made.compose = compose
        made.reference(lambda *arrays, **attrs: _values(compose, arrays, attrs))
        made.flops(lambda *types, **attrs: sum(_flops(n) for n in _inner(compose, types, attrs)))
        return made

    return declare


def row_length(type: TensorType) -> int:
    """Elements of a row, all dimensions but the first."""
    return type.numel // max(int(type.shape[0]), 1)


@lru_cache(maxsize=64)  # passes ask the same of a node again and again, one node after the other
def made_of(node: Tensor) -> tuple[Tensor, ...]:
    """Expands an op that is defined by others into the nodes that compute its results; `(node,)` for any other op."""
    if node.opdef is None or node.opdef.compose is None:
        return (node,)
    return node.opdef.compose(*node.sources, **node.attrs)


def is_several(node: Tensor) -> bool:
    """Whether a node has several results, which PART nodes read."""
    return len(made_of(node)) > 1


def results(node: Tensor) -> tuple[Tensor, ...]:
    """The PART node of each result of a multi-result op; `(node,)` for any other op."""
    if not is_several(node):
        return (node,)
    types = [n.type for n in made_of(node)]
    return tuple(
        part(node, start=start, shape=t.shape, dtype=t.dtype)
        for start, t in zip(starts(types), types, strict=True)
    )


def starts(types: Sequence[TensorType]) -> list[int]:
    """Offset of each result within a row of the node, in elements."""
    lengths = [row_length(t) for t in types]
    return [sum(lengths[:i]) for i in range(len(lengths))]


@op(Op.PART, rowwise=True, result_of="x")
def part(x: Tensor, *, start: int, shape: tuple[int, ...], dtype: DType) -> TensorType:
    """One of several results: x[:, start:start + n] in the shape and type that it has; no copy"""
    type = TensorType(dtype, shape)
    stop = start + row_length(type)
    require(shape[0] == x.shape[0] and stop <= x.shape[-1], "part: {}:{} is outside {}", start, stop, x)
    return type


@part.reference
def _(x: Array, *, start: int, shape: tuple[int, ...], dtype: DType) -> Array:
    values = x[:, start : start + int(np.prod(shape[1:]))].reshape(shape)
    return values.astype(np.int32) if dtype == dtypes.I32 else as_f32(values)


@part.nbytes
def _(x: TensorType, **attrs: Any) -> int:
    return 0


@part.cases
def _() -> Iterator[Case]:
    return iter(())  # it reads an op of several results, whose cases have it


def _inner(compose: Compose[...], types: Sequence[TensorType], attrs: dict[str, Any]) -> list[Tensor]:
    """All nodes that compute results, over leaves of given types, sources first."""
    leaves = [input_tensor(str(i), t) for i, t in enumerate(types)]
    return between(leaves, compose(*leaves, **attrs))


def between(given: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Tensor]:
    """The nodes between `given` and `outputs`, sources first; what is given is left out."""
    seen: dict[Tensor, None] = {}

    def visit(node: Tensor) -> None:
        if node in given or node in seen:
            return
        for source in node.sources:
            visit(source)
        seen[node] = None

    for node in outputs:
        visit(node)
    return list(seen)


def _flops(node: Tensor) -> int:
    return node.declaration.count_flops(*(s.type for s in node.sources), **node.attrs)


def _values(compose: Compose[...], arrays: Sequence[Array], attrs: dict[str, Any]) -> Array:
    """The results side by side, by the references of the inner nodes; integers as float32."""
    types = [TensorType(dtypes.I32 if a.dtype == np.int32 else dtypes.F32, a.shape) for a in arrays]
    leaves = [input_tensor(str(i), t) for i, t in enumerate(types)]
    values: dict[Tensor, Array] = dict(zip(leaves, arrays, strict=True))

    def value(node: Tensor) -> Array:
        if node not in values:
            values[node] = node.declaration.evaluate(*map(value, node.sources), **node.attrs)
        return values[node]

    outputs = [as_f32(value(n)) for n in compose(*leaves, **attrs)]
    if len(outputs) == 1:
        return outputs[0]
    return np.concatenate([v.reshape(len(v), math.prod(v.shape[1:])) for v in outputs], axis=1)
