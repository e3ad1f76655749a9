"""The CPU backend's runtime: leaves at fixed addresses, graphs compiled to packed programs."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched import dtypes
from graphsched.backends.cpu import attention, elementwise, matmul, moe, movement, norm, program, rope
from graphsched.backends.cpu.layout import ABORT, EXTENT_WORDS, ONE, RUN_WORDS
from graphsched.backends.cpu.lowering import Low, dense
from graphsched.backends.cpu.pool import POOL
from graphsched.backends.cpu.program import Buffer, Operand, PackedProgram, PythonStep, Step
from graphsched.backends.cpu.quants import NATIVE
from graphsched.backends.reference import evaluate
from graphsched.device import Capacity, Progress, Raw
from graphsched.dtypes import DType
from graphsched.graph import Graph, replace_leaves
from graphsched.tensor import Extent, Tensor, TensorType

Array = NDArray[Any]
FAMILIES = (attention, elementwise, matmul, moe, movement, norm, rope)  # importing them attaches their lowerings


class CpuRuntime:
    """Weights stay where they are mapped; types without kernels are dequantised to F32 on first use."""

    def __init__(self, weights: Mapping[str, Raw], capacities: Mapping[str, int], n_threads: int) -> None:
        self._weights, self._capacities, self.n_threads = weights, capacities, n_threads
        self._memory: dict[str, Raw] = {}
        self._stored: dict[str, DType] = {}  # weights read from a float32 copy, and their type in the file
        self.run_block = np.zeros(RUN_WORDS, np.int64)
        self.run_block[ONE] = 1

    def input(self, leaf: Tensor) -> Array:
        memory = self._allocated(leaf)
        if leaf.dtype.numpy is None:
            return memory
        shape = Capacity(self._capacities).shape(leaf.shape)
        return memory.view(leaf.dtype.numpy).reshape(shape)

    def _allocated(self, leaf: Tensor) -> Raw:
        if leaf.name not in self._memory:
            size = leaf.dtype.tensor_bytes(Capacity(self._capacities).shape(leaf.shape))
            self._memory[leaf.name] = program.aligned(size)
            self._memory[leaf.name][:] = 0
        return self._memory[leaf.name]

    def leaf(self, tensor: Tensor) -> Operand:
        """The operand of a weight, input or cache."""
        if tensor.kind != "weight":
            memory = self._allocated(tensor)
            return dense(Buffer(tensor.name, memory.nbytes, memory), tensor.type)
        raw = self._dequantised(tensor) if tensor.name in self._stored else self._weights[tensor.name]
        return dense(Buffer(tensor.name, raw.nbytes, raw), tensor.type)

    def _dequantised(self, tensor: Tensor) -> Raw:
        if tensor.name not in self._memory:
            stored = self._stored[tensor.name]
            values = stored.dequantize(self._weights[tensor.name], tuple(tensor.shape))
            self._memory[tensor.name] = values.reshape(-1).view(np.uint8)
        return self._memory[tensor.name]

    def compile(self, graph: Graph, progress: Progress | None = None) -> "CpuExecutable":
        graph = replace_leaves(graph, self._in_kernel_type)
        low = Low(self.leaf, self.n_threads)
        for index, node in enumerate(graph.nodes):
            low.lower(node, index)
        compile_kernels(low.steps, progress)
        outputs = [low.operand(o) for o in graph.outputs]
        packed = program.pack(low.steps, [o.buffer for o in outputs])
        return CpuExecutable(self, graph, packed, outputs)

    def _in_kernel_type(self, leaf: Tensor) -> Tensor:
        """Weights of types without kernels are read from a float32 copy."""
        if leaf.kind != "weight" or leaf.dtype == dtypes.F32 or (leaf.dtype in NATIVE and len(leaf.shape) > 1):
            return leaf  # norms and biases are vectors, which kernels read as float32
        self._stored[leaf.name] = leaf.dtype
        return replace(leaf, type=TensorType(dtypes.F32, leaf.shape))

    def abort(self, on: bool) -> None:
        self.run_block[ABORT] = int(on)


def compile_kernels(items: Sequence[Step | PythonStep], progress: Progress | None) -> None:
    """Compiles (or loads from disk) every kernel that the steps need."""
    kernels = list(dict.fromkeys(item.kernel for item in items if isinstance(item, Step)))
    for done, kernel in enumerate(kernels):
        if progress:
            progress("compiling kernels", done, len(kernels))
        _ = kernel.address
    if progress:
        progress("compiling kernels", len(kernels), len(kernels))


@dataclass
class CpuExecutable:
    """A packed program and what it must keep alive."""

    runtime: CpuRuntime
    graph: Graph
    packed: PackedProgram
    results: list[Operand]

    def __post_init__(self) -> None:
        self._run = self.runtime.run_block.ctypes.data

    @functools.cached_property
    def _whole(self) -> list[Array]:
        return [self._array(o, Capacity({})) for o in self.results]

    @property
    def outputs(self) -> tuple[Array, ...]:
        if any(o.type.dtype.numpy is None for o in self.results):
            return tuple(self._values(o, Capacity({})) for o in self.results)
        block = self.runtime.run_block
        lengths = [o.type.shape[0] for o in self.results]
        cut = [int(block[EXTENT_WORDS[d.word]]) if isinstance(d, Extent) else d for d in lengths]
        return tuple(whole[:n] for whole, n in zip(self._whole, cut, strict=True))

    def run(self, lengths: Mapping[str, int]) -> None:
        block = self.runtime.run_block
        for name, n in lengths.items():
            block[EXTENT_WORDS[name]] = n
        for segment in self.packed.segments:
            if segment.python is None:
                POOL.run(self.packed.address(segment), segment.count, self._run, self.runtime.n_threads)
            else:
                self._run_python(segment.python, Capacity(lengths))

    def _run_python(self, step: PythonStep, actual: Capacity) -> None:
        sources = [self._values(o, actual) for o in step.sources]
        self._array(step.result, actual)[...] = evaluate(step.node, sources, actual)

    def _values(self, operand: Operand, actual: Capacity) -> Array:
        type = operand.type
        if type.dtype.numpy is not None:
            return self._array(operand, actual)
        shape, (memory, start) = actual.shape(type.shape), self.packed.memory_of(operand)
        rows = (*shape[:-1], type.dtype.row_bytes(shape[-1]))  # of a view, they are parts of wider rows
        raw = np.ndarray(rows, np.uint8, memory, start, (*operand.strides[:-1], 1))
        return type.dtype.dequantize(np.ascontiguousarray(raw).reshape(-1), shape)

    def _array(self, operand: Operand, actual: Capacity) -> Array:
        """The operand's memory as an array of actual shape, which keeps that memory alive."""
        shape, (memory, start) = actual.shape(operand.type.shape), self.packed.memory_of(operand)
        return np.ndarray(shape, operand.type.dtype.numpy, memory, start, operand.strides)


class CpuBackend:
    """Numba kernels on a pool of threads."""

    def open(self, weights: Mapping[str, Raw], capacities: Mapping[str, int], n_threads: int) -> CpuRuntime:
        return CpuRuntime(weights, capacities, n_threads)
