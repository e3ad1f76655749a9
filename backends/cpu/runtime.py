"""The CPU backend's runtime: leaves at fixed addresses, graphs compiled to packed programs."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched import dtypes
from graphsched.assign import HOST
from graphsched.backends.cpu import (
    attention,
    attention_parted,
    elementwise,
    matmul,
    moe,
    movement,
    norm,
    program,
    rope,
)
from graphsched.backends.cpu.layout import ABORT, EXTENT_WORDS, ONE, RUN_WORDS, TRACE, TRACE_WORDS
from graphsched.backends.cpu.lowering import Low, dense
from graphsched.backends.cpu.pool import POOL, read_cycles
from graphsched.backends.cpu.program import Buffer, Operand, PackedProgram, PythonStep, Step
from graphsched.backends.cpu.quants import NATIVE
from graphsched.backends.cpu.space import HostSpace, Memory, SimSpace, Space
from graphsched.backends.cpu.transfer import copy_step, expert_copy_step
from graphsched.backends.reference import evaluate
from graphsched.device import Capacity, Progress, Setup
from graphsched.dtypes import DType
from graphsched.graph import Graph, replace_leaves
from graphsched.scheduler import Copy, Schedule, whole
from graphsched.tensor import Extent, Tensor, TensorType

Array = NDArray[Any]
FAMILIES = (
    attention,
    attention_parted,
    elementwise,
    matmul,
    moe,
    movement,
    norm,
    rope,
)  # importing them attaches their lowerings


class CpuRuntime:
    """Memory of one session: weights stay where they are mapped, simulated devices hold copies.

    Types without kernels are dequantised to F32 on first use.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.spaces: dict[str, Space] = {HOST: HostSpace()}
        self.spaces |= {name: SimSpace(i) for i, name in enumerate(setup.sims)}
        self._memory: dict[tuple[str, str], Memory] = {}
        self._stored: dict[str, DType] = {}  # weights read from a float32 copy, and their type in the file
        self.run_block = np.zeros(RUN_WORDS, np.int64)
        self.run_block[ONE] = 1

    def input(self, leaf: Tensor) -> Array:
        raw = self._allocated(leaf, HOST).bytes
        if leaf.dtype.numpy is None:
            return raw
        return raw.view(leaf.dtype.numpy).reshape(Capacity(self.setup.capacities).shape(leaf.shape))

    def _allocated(self, leaf: Tensor, device: str) -> Memory:
        """Memory of an input or cache, at its largest capacity."""
        if (leaf.name, device) not in self._memory:
            size = leaf.dtype.tensor_bytes(Capacity(self.setup.capacities).shape(leaf.shape))
            made = self.spaces[device].allocate(size)
            made.bytes[:] = 0
            self._memory[leaf.name, device] = made
        return self._memory[leaf.name, device]

    def leaf(self, device: str, tensor: Tensor) -> Operand:
        """The operand of a weight, input, cache or copy on a device."""
        if tensor.kind == "copy":
            return dense(Buffer(tensor.name, tensor.type.nbytes, device=device), tensor.type)
        memory = self._weight(tensor, device) if tensor.kind == "weight" else self._allocated(tensor, device)
        return dense(Buffer(tensor.name, memory.bytes.size, memory, device=device), tensor.type)

    def _weight(self, tensor: Tensor, device: str) -> Memory:
        if (tensor.name, device) not in self._memory:
            raw = self.setup.weights[tensor.name]
            if stored := self._stored.get(tensor.name):
                raw = stored.dequantize(raw, tuple(tensor.shape)).reshape(-1).view(np.uint8)
            self._memory[tensor.name, device] = self.spaces[device].adopt(raw)
        return self._memory[tensor.name, device]

    def in_kernel_types(self, graph: Graph) -> Graph:
        """The graph on weights of types that have kernels: the others are read from a float32 copy."""

        def swap(leaf: Tensor) -> Tensor:
            if leaf.kind != "weight" or leaf.dtype == dtypes.F32:
                return leaf
            if leaf.dtype in NATIVE and len(leaf.shape) > 1:  # kernels read norms and biases as float32
                return leaf
            self._stored[leaf.name] = leaf.dtype
            return replace(leaf, type=TensorType(dtypes.F32, leaf.shape))

        return replace_leaves(graph, swap)

    def compile(self, plan: Graph | Schedule, progress: Progress | None = None) -> "CpuExecutable":
        """A graph (all on the host) or a schedule as one packed program, copies included."""
        schedule = plan if isinstance(plan, Schedule) else whole(self.in_kernel_types(plan))
        items, lows = self._lowered(schedule)
        compile_kernels(items, progress)
        device = schedule.assignment.device
        outputs = [lows[device[o]].operand(schedule.placed[o]) for o in schedule.graph.outputs]
        packed = program.pack(items, [o.buffer for o in outputs], self.spaces)
        return CpuExecutable(self, schedule, packed, outputs)

    def _lowered(self, schedule: Schedule) -> tuple[list[Step | PythonStep], dict[str, Low]]:
        """Steps of all devices in running order, and the lowering of each device."""
        items: list[Step | PythonStep] = []
        lows = {
            name: Low(functools.partial(self.leaf, name), self.setup.n_threads, name, space, items)
            for name, space in self.spaces.items()
        }
        for split in schedule.splits:
            for copy in split.inputs:
                items.append(self._copy(copy, schedule, lows))
            for node in split.nodes:
                lows[split.device].lower(node, schedule.index.get(node, -1))
        return items, lows

    def _copy(self, copy: Copy, schedule: Schedule, lows: Mapping[str, Low]) -> Step:
        placed = schedule.placed
        source = lows[copy.from_device].operand(placed.get(copy.source, copy.source))
        result = lows[copy.to_device].operand(copy.tensor)
        if copy.ids is None:
            return copy_step(source, result)
        return expert_copy_step(source, result, lows[HOST].operand(placed.get(copy.ids, copy.ids)))

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


@dataclass(frozen=True)
class StepTime:
    """One step as thread 0 saw it: kernel from `begun` to `done`, then waiting for the others until `joined`."""

    kernel: str
    node: int
    device: str
    begun: float
    done: float
    joined: float


@dataclass(frozen=True)
class RunTrace:
    """Raw times of one run: per step three cycle counts, packed steps and Python steps each in running order."""

    executable: "CpuExecutable"
    lengths: Mapping[str, int]
    ticks: NDArray[np.int64]
    python_ticks: NDArray[np.int64]
    seconds_per_tick: float

    @property
    def schedule(self) -> Schedule:
        return self.executable.schedule

    def steps(self) -> list[StepTime]:
        """When each step ran, in seconds from the first."""
        packed, python = iter(self.ticks), iter(self.python_ticks)
        items = self.executable.packed.items
        ticks = np.array([next(packed if isinstance(item, Step) else python) for item in items])
        times = (ticks - ticks[0, 0]) * self.seconds_per_tick
        return [StepTime(*self._what(i), *map(float, t)) for i, t in zip(items, times, strict=True)]

    def _what(self, item: Step | PythonStep) -> tuple[str, int, str]:
        if isinstance(item, Step):
            return item.kernel.name, item.node, item.device
        return "python", self.schedule.index.get(item.node, -1), HOST


@dataclass
class CpuExecutable:
    """A packed program and what it must keep alive."""

    runtime: CpuRuntime
    schedule: Schedule
    packed: PackedProgram
    results: list[Operand]
    python_ticks: list[tuple[int, int, int]] | None = None  # a list collects the times of Python steps

    def __post_init__(self) -> None:
        # What every run needs, resolved once: decode is a few Python statements.
        self._run = self.runtime.run_block.ctypes.data
        self._ranges = [(self.packed.address(s), s.count, s.python) for s in self.packed.segments]
        self._plain = [o for o in self.results if o.type.dtype.numpy is not None]
        self._views = [(self._array(o, Capacity({})), length_word(o.type)) for o in self._plain]

    @property
    def outputs(self) -> tuple[Array, ...]:
        if len(self._plain) < len(self.results):
            return tuple(self._values(o, Capacity({})) for o in self.results)
        block = self.runtime.run_block
        return tuple(view if word < 0 else view[: block[word]] for view, word in self._views)

    def run(self, lengths: Mapping[str, int]) -> None:
        block = self.runtime.run_block
        for name, n in lengths.items():
            block[EXTENT_WORDS[name]] = n
        if self.runtime.setup.poison:
            for arena in self.packed.arenas.values():
                arena.bytes[:] = 0xFF  # NaN in every float type, -1 in integers
        for address, count, python in self._ranges:
            if python is None:
                POOL.run(address, count, self._run, self.runtime.setup.n_threads)
            elif not block[ABORT]:  # after an abort sources hold anything
                self._run_python(python, Capacity(lengths))

    def traced(self, lengths: Mapping[str, int]) -> "RunTrace":
        """Runs once and records the cycle counter around every packed step."""
        ticks = np.zeros((len(self.packed.words), TRACE_WORDS), np.int64)
        block = self.runtime.run_block
        block[TRACE], self.python_ticks = ticks.ctypes.data, []
        clock, began = time.perf_counter(), read_cycles()
        self.run(lengths)
        seconds, block[TRACE] = time.perf_counter() - clock, 0
        python, self.python_ticks = np.array(self.python_ticks, np.int64).reshape(-1, TRACE_WORDS), None
        return RunTrace(self, dict(lengths), ticks, python, seconds / max(read_cycles() - began, 1))

    def _run_python(self, step: PythonStep, actual: Capacity) -> None:
        began = read_cycles()
        sources = [self._values(o, actual) for o in step.sources]
        self._array(step.result, actual)[...] = evaluate(step.node, sources, actual)
        if self.python_ticks is not None:
            done = read_cycles()
            self.python_ticks.append((began, done, done))

    def _values(self, operand: Operand, actual: Capacity) -> Array:
        type = operand.type
        if type.dtype.numpy is not None:
            return self._array(operand, actual)
        shape, (memory, start) = actual.shape(type.shape), self.packed.bytes_of(operand)
        rows = (*shape[:-1], type.dtype.row_bytes(shape[-1]))  # of a view, they are parts of wider rows
        raw = np.ndarray(rows, np.uint8, memory, start, (*operand.strides[:-1], 1))
        return type.dtype.dequantize(np.ascontiguousarray(raw).reshape(-1), shape)

    def _array(self, operand: Operand, actual: Capacity) -> Array:
        """The operand's memory as an array of actual shape, which keeps that memory alive."""
        shape, (raw, start) = actual.shape(operand.type.shape), self.packed.bytes_of(operand)
        return np.ndarray(shape, operand.type.dtype.numpy, raw, start, operand.strides)


def length_word(type: TensorType) -> int:
    """The run-block word with the actual length of the first dimension, or -1 if that is fixed."""
    first = type.shape[0] if type.shape else 1
    return EXTENT_WORDS[first.word] if isinstance(first, Extent) else -1
