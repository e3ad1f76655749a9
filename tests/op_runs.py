"""Cases of the op table: their leaves and values, and a run of one on a backend."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphsched.backends.cpu.device  # attaches the lowerings, without which every op is a Python step
import graphsched.graph.ops
from graphsched.errors import Error
from graphsched.graph.graph import from_outputs
from graphsched.graph.opdef import OPS, WEIGHT, Case, OpDef, as_f32
from graphsched.graph.ops.several import results
from graphsched.graph.tensor import Tensor, TensorType, input_tensor, weight
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.synth.weights import chunks
from graphsched.types import dtypes

Array = NDArray[Any]
Raw = NDArray[np.uint8]


def all_cases() -> Iterator[Any]:
    assert graphsched.graph.ops.__all__
    for definition in OPS.values():
        assert definition.list_cases is not None, f"{definition.name} has no cases"
        for case in definition.list_cases():
            operands = ",".join(map(str, case.types))
            attrs = ",".join(f"{k}={v}" for k, v in case.attrs.items())
            yield pytest.param(definition, case, id=f"{definition.name}({operands};{attrs})")


def draw(
    case: Case, definition: OpDef[Any], rng: np.random.Generator
) -> tuple[list[Tensor], dict[str, Array]]:
    """Leaves for a case and the raw values of each."""
    types = dict(zip(definition.operands, case.types, strict=False))
    tensors: list[Tensor] = []
    values: dict[str, Array] = {}
    for i, (name, type) in enumerate(types.items()):
        role = definition.roles.get(name)
        if callable(role):
            drawn = role(types, rng)
            values[name] = drawn if type.dtype == dtypes.I32 else type.dtype.quantize(drawn)
        elif type.dtype == dtypes.I32:
            values[name] = rng.integers(*case.ints[i], size=type.shape).astype(np.int32)
        else:
            values[name] = draw_values(name, type, rng)
        tensors.append(leaf_of(definition, name, type))
    return tensors, values


def leaf_of(definition: OpDef[Any], name: str, type: TensorType) -> Tensor:
    """The leaf of an operand: an input, a weight, or state that the op updates."""
    if definition.roles.get(name) == WEIGHT:
        return weight(f"{name}.weight", type)
    return Tensor(type, "cache", name) if name == definition.traits.updates else input_tensor(name, type)


def draw_values(name: str, type: TensorType, rng: np.random.Generator) -> Array:
    """Noise in the type; random bytes with sensible scales for one that nothing here quantises to."""
    if type.dtype.name == "NVFP4":  # scales are bytes as well, of which any will do
        return rng.integers(0, 256, type.nbytes).astype(np.uint8)
    try:
        return type.dtype.quantize(rng.standard_normal(type.shape).astype(np.float32))
    except Error:
        return np.concatenate([c.reshape(-1) for c in chunks(f"blk.0.{name}.weight", type, 1, False)])


def as_reference(type: TensorType, raw: Any) -> Array:
    return raw if type.dtype == dtypes.I32 else type.dtype.dequantize(raw, type.shape)


def expected_of(
    definition: OpDef[Any], case: Case, tensors: Sequence[Tensor], values: Mapping[str, Array]
) -> tuple[Array, ...]:
    """What the reference makes of a case's values: the result, and the state behind it if the op updates one."""
    arrays = [as_reference(t.type, values[t.name.split(".")[0]]).copy() for t in tensors]
    result = definition.evaluate(*arrays, **case.attrs)
    return result, *(a for a, t in zip(arrays, tensors, strict=True) if t.kind == "cache")


def raw_of(tensors: Sequence[Tensor], values: Mapping[str, Array]) -> dict[str, Raw]:
    """The bytes of leaves by name."""
    return {t.name: bytes_of(values[t.name.split(".")[0]]) for t in tensors}


def bytes_of(array: Array) -> Raw:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1)


def run_on(
    backend: str, node: Tensor, tensors: Sequence[Tensor], values: Mapping[str, Array], threads: int
) -> Array:
    """A node's results on a backend, from the values of its leaves."""
    return run_raw(backend, node, tensors, raw_of(tensors, values), threads, case_cells(tensors))[0]


def run_raw(
    backend: str, node: Tensor, leaves: Sequence[Tensor], raw: Mapping[str, Raw], threads: int, n_kv: int
) -> tuple[Array, ...]:
    """A node's results on a backend, from the bytes of its leaves, and the state that it leaves behind."""
    runtime = open_runtime(backend, Setup(dict(raw), n_threads=threads))
    for leaf in leaves:
        if leaf.kind != "weight":
            runtime.input(leaf).reshape(-1).view(np.uint8)[:] = raw[leaf.name]
    executable = runtime.compile(from_outputs(*results(node)))
    executable.run({"n_kv": n_kv})
    states = (runtime.input(leaf) for leaf in leaves if leaf.kind == "cache")
    return side_by_side(executable.outputs), *states


def side_by_side(parts: Sequence[Array]) -> Array:
    """The results of an op of several as its reference has them."""
    if len(parts) == 1:
        return np.asarray(parts[0])
    return np.concatenate([as_f32(p).reshape(len(p), -1) for p in parts], axis=1)


def case_cells(tensors: Sequence[Tensor]) -> int:
    return next((int(t.shape[0]) for t in tensors if t.name == "cells"), 0)
