"""Steps with symbolic operands, and the packer that turns them into an int64 array of step records."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from graphsched import memory
from graphsched.assign import HOST
from graphsched.backends.cpu import layout
from graphsched.backends.cpu.jit import Kernel
from graphsched.backends.cpu.space import Memory, Space, aligned
from graphsched.tensor import Tensor, TensorType


@dataclass(frozen=True, eq=False)
class Buffer:
    """Bytes of one device: `memory` for weights, inputs and caches, else planned in that device's arena."""

    name: str
    nbytes: int
    memory: Memory | None = None
    reuse: tuple["Buffer", ...] = ()  # buffers whose memory this one may take over when they die
    device: str = HOST

    @property
    def is_planned(self) -> bool:
        return self.memory is None


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor as a kernel sees it: a buffer, an offset and strides in bytes."""

    buffer: Buffer
    type: TensorType
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def is_contiguous(self) -> bool:
        return self.strides == contiguous_strides(self.type)


@dataclass(frozen=True)
class Out:
    """Marks the operand that a step writes."""

    operand: Operand


Argument = Operand | Out | int | float


@dataclass(frozen=True)
class Step:
    """One kernel call per thread; the unit of barrier and trace."""

    kernel: Kernel
    args: tuple[Argument, ...]
    rows_word: int = layout.ONE
    rows_times: int = 1
    node: int = -1
    device: str = HOST
    moves: bool = False  # a copy between devices: the only step that may name memory of two
    barrier: bool = True

    def reads(self) -> list[Operand]:
        return [a for a in self.args if isinstance(a, Operand)]

    def writes(self) -> list[Operand]:
        return [a.operand for a in self.args if isinstance(a, Out)]


@dataclass(frozen=True)
class PythonStep:
    """A node that only has a numpy reference: the program is cut there and Python runs it."""

    node: Tensor
    sources: tuple[Operand, ...]
    result: Operand

    def reads(self) -> list[Operand]:
        return list(self.sources)

    def writes(self) -> list[Operand]:
        return [self.result]


def contiguous_strides(type: TensorType) -> tuple[int, ...]:
    """Byte strides of a dense tensor; the last one is 0 for types whose elements have no address of their own."""
    dims = [int(d) for d in type.shape]
    item = 0 if type.dtype.block > 1 else type.dtype.nbytes
    strides, size = [item], type.dtype.row_bytes(dims[-1])
    for d in reversed(dims[:-1]):
        strides.append(size)
        size *= d
    return tuple(reversed(strides))


@dataclass(frozen=True)
class Segment:
    """A run of packed steps, or one Python step."""

    first: int = 0
    count: int = 0
    python: PythonStep | None = None


@dataclass(frozen=True)
class PackedProgram:
    """Step records ready to run, and the arenas they work in, one per device."""

    words: NDArray[np.int64]
    segments: tuple[Segment, ...]
    arenas: Mapping[str, Memory] = field(repr=False)
    plans: Mapping[str, memory.Arena] = field(repr=False)
    items: tuple[Step | PythonStep, ...] = field(
        repr=False
    )  # whose operands keep weights and constants alive

    def address(self, segment: Segment) -> int:
        return self.words.ctypes.data + segment.first * layout.STEP_BYTES

    def bytes_of(self, operand: Operand) -> tuple[NDArray[np.uint8], int]:
        """The bytes that hold an operand, and where it starts in them."""
        buffer = operand.buffer
        if buffer.memory is not None:
            return buffer.memory.bytes, operand.offset
        return self.arenas[buffer.device].bytes, self.plans[buffer.device].offsets[buffer] + operand.offset


def plan_arenas(items: Sequence[Step | PythonStep], keep: Iterable[Buffer]) -> dict[str, memory.Arena]:
    """Arena offsets of all planned buffers, per device; those in `keep` live to the end."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, item in enumerate(items):
        for operand in (*item.reads(), *item.writes()):
            if operand.buffer.is_planned:
                first.setdefault(operand.buffer, i)
                last[operand.buffer] = i
    for buffer in keep:
        if buffer in first:
            last[buffer] = len(items)
    lives: dict[str, list[memory.Lifetime]] = {HOST: []}
    for b in first:
        lives.setdefault(b.device, []).append(memory.Lifetime(b, b.nbytes, first[b], last[b], b.reuse))
    return {device: memory.plan(own) for device, own in lives.items()}


def pack(
    items: Sequence[Step | PythonStep], keep: Iterable[Buffer], spaces: Mapping[str, Space]
) -> PackedProgram:
    """Plans the arenas, resolves addresses, and places a barrier only where two steps touch the same bytes."""
    plans = plan_arenas(items, keep)
    arenas = {device: spaces[device].allocate(max(plan.nbytes, 64)) for device, plan in plans.items()}
    items = place_barriers(items, plans)
    steps = [item for item in items if isinstance(item, Step)]
    words = aligned(layout.STEP_BYTES * len(steps)).view(np.int64).reshape(len(steps), layout.STEP_WORDS)
    words[:] = 0
    for number, (row, step) in enumerate(zip(words, steps, strict=True)):
        row[layout.STEP_NUMBER] = number
        row[layout.STEP_KERNEL] = step.kernel.address
        row[layout.STEP_FLAGS] = layout.BARRIER_AFTER if step.barrier else 0
        row[layout.STEP_ROWS_WORD] = step.rows_word
        row[layout.STEP_ROWS_TIMES] = step.rows_times
        row[layout.STEP_NODE] = step.node
        for i, value in enumerate(step.args):
            row[layout.STEP_ARGS + i] = _word(value, step, arenas, plans, spaces)
    return PackedProgram(words, tuple(segments(items)), arenas, plans, tuple(items))


def segments(items: Sequence[Step | PythonStep]) -> Iterable[Segment]:
    """Cuts at Python steps."""
    first = count = 0
    for item in items:
        if isinstance(item, Step):
            count += 1
            continue
        if count:
            yield Segment(first, count)
        yield Segment(python=item)
        first, count = first + count, 0
    if count:
        yield Segment(first, count)


def _word(
    value: Argument,
    step: Step,
    arenas: Mapping[str, Memory],
    plans: Mapping[str, memory.Arena],
    spaces: Mapping[str, Space],
) -> int:
    if isinstance(value, Out):
        value = value.operand
    if isinstance(value, Operand):
        buffer = value.buffer
        own = buffer.device == step.device
        assert own or step.moves, (
            f"{step.kernel.name} on {step.device} reads {buffer.name} of {buffer.device}"
        )
        at = buffer.memory or arenas[buffer.device]
        offset = value.offset if buffer.memory else value.offset + plans[buffer.device].offsets[buffer]
        return spaces[buffer.device].translate(at.address + offset)
    if isinstance(value, float):
        return struct.unpack("<q", struct.pack("<d", value))[0]
    return int(value)


def place_barriers(
    items: Sequence[Step | PythonStep], plans: Mapping[str, memory.Arena]
) -> list[Step | PythonStep]:
    """A step needs all threads to have finished the steps since the last barrier that it conflicts with."""
    out: list[Step | PythonStep] = []
    read: list[tuple[int, int]] = []
    written: list[tuple[int, int]] = []
    for item in items:
        reads, writes = ([_span(o, plans) for o in side] for side in (item.reads(), item.writes()))
        conflict = _overlap(reads, written) or _overlap(writes, written) or _overlap(writes, read)
        if conflict or isinstance(item, PythonStep):
            _end_with_barrier(out)
            read, written = [], []
        out.append(replace(item, barrier=False) if isinstance(item, Step) else item)
        read += reads
        written += writes
    _end_with_barrier(out)
    return out


def _end_with_barrier(out: list[Step | PythonStep]) -> None:
    if out and isinstance(out[-1], Step):
        out[-1] = replace(out[-1], barrier=True)


def _span(operand: Operand, plans: Mapping[str, memory.Arena]) -> tuple[int, int]:
    """The byte range of an operand's buffer; arenas are told apart from each other and from real addresses."""
    b = operand.buffer
    if b.memory is not None:
        return b.memory.address, b.memory.address + b.nbytes
    start = plans[b.device].offsets[b] - ((2 + list(plans).index(b.device)) << 56)
    return start, start + b.nbytes


def _overlap(a: Sequence[tuple[int, int]], b: Sequence[tuple[int, int]]) -> bool:
    return any(x0 < y1 and y0 < x1 for x0, x1 in a for y0, y1 in b)
