"""Cases of the op table: their leaves and values, and a run of one on a backend."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphsched.graph.ops
from graphsched.errors import Error
from graphsched.graph.graph import from_outputs
from graphsched.graph.opdef import OPS, Case, Op, OpDef, as_f32
from graphsched.graph.ops.several import results
from graphsched.graph.tensor import Tensor, TensorType, input_tensor, weight
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime
from graphsched.synth.weights import chunks
from graphsched.types import dtypes

Array = NDArray[Any]


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
    tensors: list[Tensor] = []
    values: dict[str, Array] = {}
    for i, (name, type) in enumerate(zip(definition.operands, case.types, strict=False)):
        if type.dtype == dtypes.I32:
            values[name] = draw_ints(name, type, case, i, rng)
        else:
            values[name] = draw_values(name, type, rng)
        tensors.append(leaf(name, type, definition))
    return tensors, values


def draw_values(name: str, type: TensorType, rng: np.random.Generator) -> Array:
    """Noise in the type; random bytes with sensible scales for one that nothing here quantises to."""
    if type.dtype.name == "NVFP4":  # scales are bytes as well, of which any will do
        return rng.integers(0, 256, type.nbytes).astype(np.uint8)
    try:
        return type.dtype.quantize(rng.standard_normal(type.shape).astype(np.float32))
    except Error:
        return np.concatenate([c.reshape(-1) for c in chunks(f"blk.0.{name}.weight", type, 1, False)])


def draw_ints(name: str, type: TensorType, case: Case, i: int, rng: np.random.Generator) -> Array:
    n = type.shape[0]
    if name == "cells":  # every cell holds its own position of sequence 0, but for a free one
        cells = np.stack([np.zeros(n), np.arange(n)], axis=1).astype(np.int32)
        cells[n // 2] = (-1, 0)
        return cells
    if name == "where":  # the last tokens of the cache
        n_cells = case.types[i + 1].shape[0]
        return np.stack([np.zeros(n), np.arange(n_cells - n, n_cells)], axis=1).astype(np.int32)
    if name == "slots":
        return rng.permutation(case.ints[i][1])[:n].astype(np.int32)
    return rng.integers(*case.ints[i], size=type.shape).astype(np.int32)


def leaf(name: str, type: TensorType, definition: OpDef[Any]) -> Tensor:
    if name in "qkv" and definition.op is Op.MUL_MAT_QKV:
        return weight(f"{name}.weight", type)
    if name in ("w", "up", "gate", "b") and definition.op in (
        Op.MUL_MAT,
        Op.MUL_MAT_ID,
        Op.MOE_FUSED_UP_GATE,
    ):
        return weight(f"{name}.weight", type)
    return input_tensor(name, type)


def as_reference(type: TensorType, raw: Any) -> Array:
    return raw if type.dtype == dtypes.I32 else type.dtype.dequantize(raw, type.shape)


def run_on(backend: str, node: Tensor, tensors: list[Tensor], values: dict[str, Any], threads: int) -> Array:
    raw = {
        t.name: np.ascontiguousarray(values[t.name.split(".")[0]]).view(np.uint8).reshape(-1) for t in tensors
    }
    runtime = open_runtime(backend, Setup(raw, n_threads=threads))
    lengths = {"n_kv": case_cells(tensors)}
    for t in tensors:
        if t.kind == "input":
            runtime.input(t).reshape(-1).view(np.uint8)[:] = raw[t.name]
    executable = runtime.compile(from_outputs(*results(node)))
    executable.run(lengths)
    return side_by_side(executable.outputs)


def side_by_side(parts: Sequence[Array]) -> Array:
    """The results of an op of several as its reference has them."""
    if len(parts) == 1:
        return np.asarray(parts[0])
    return np.concatenate([as_f32(p).reshape(len(p), -1) for p in parts], axis=1)


def case_cells(tensors: list[Tensor]) -> int:
    return next((int(t.shape[0]) for t in tensors if t.name == "cells"), 0)
