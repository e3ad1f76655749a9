"""Memory of a device, buffers in it, operands over them, and items: the units of work that read and write operands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run.memory import Arena
from graphsched.types.devices import HOST

FLAG_BYTES = 64  # a flag has a cache line of its own
Work = Literal["compute", "up", "down"]  # what a stream does: kernels, copies to a device, copies from it


@dataclass(frozen=True, eq=False)
class Memory:
    """Bytes at an address of one device; `bytes` is where the host can see them, empty where it cannot."""

    address: int
    nbytes: int
    bytes: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8), repr=False)
    owner: Any = field(
        default=None, repr=False
    )  # keeps memory alive that is not numpy's; fills, reads, writes it

    def fill(self, value: int) -> None:
        """Sets every byte."""
        if self.bytes.size:
            self.bytes[:] = value
        elif self.owner is not None:
            self.owner.fill(value)

    def read(self, rows: NDArray[np.int32], row_bytes: int) -> NDArray[np.uint8]:
        """Copies of some rows of row_bytes each, u8[n, row_bytes]; nothing may run meanwhile."""
        if self.bytes.size:
            return self._rows(row_bytes)[rows]
        found = np.empty((len(rows), row_bytes), np.uint8)
        if self.owner is not None and found.size:
            self.owner.read(rows, found)
        return found

    def write(self, rows: NDArray[np.int32], values: NDArray[np.uint8]) -> None:
        """Sets rows to values u8[n, row_bytes]; nothing may run meanwhile."""
        if self.bytes.size:
            self._rows(values.shape[1])[rows] = values
        elif self.owner is not None and values.size:
            self.owner.write(rows, values)

    def _rows(self, row_bytes: int) -> NDArray[np.uint8]:
        return self.bytes[: len(self.bytes) // row_bytes * row_bytes].reshape(-1, row_bytes)


@dataclass(frozen=True, eq=False)
class Buffer:
    """Bytes of one device: `memory` for weights, inputs and caches, else planned in one of that device's arenas.

    `staging`: it receives an uploaded weight, and is planned in an arena of its own kind.
    """

    name: str
    nbytes: int
    memory: Memory | None = None
    reuse: tuple["Buffer", ...] = ()  # buffers whose memory this one may take over when they die
    device: str = HOST
    staging: bool = False

    @property
    def is_planned(self) -> bool:
        """Whether the memory planner places it, in an arena."""
        return self.memory is None

    @property
    def arena(self) -> str:
        """The arena that holds a planned buffer."""
        return f"{self.device} staging" if self.staging else self.device


@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor as a kernel sees it: a buffer, an offset and strides in bytes."""

    buffer: Buffer
    type: TensorType
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements follow each other in the order of its dimensions."""
        return self.strides == contiguous_strides(self.type)

    @property
    def has_whole_rows(self) -> bool:
        """Whether the elements of a row follow each other; rows may be anywhere."""
        return self.strides[-1:] == contiguous_strides(self.type)[-1:]


@dataclass(frozen=True)
class Out:
    """Marks the operand that a step writes."""

    operand: Operand


class Item(Protocol):
    """What a node or copy lowers to: one unit of work of one stream of one device."""

    @property
    def device(self) -> str:
        """The device whose stream runs it."""

    @property
    def work(self) -> Work:
        """What kind of stream runs it."""

    def reads(self) -> list[Operand]:
        """Operands that it reads."""

    def writes(self) -> list[Operand]:
        """Operands that it writes."""


@dataclass(frozen=True)
class PythonStep:
    """A node that only has a numpy reference: the host's program is cut there and Python runs it."""

    node: Tensor
    sources: tuple[Operand, ...]
    result: Operand
    index: int = -1  # of the node in its graph
    device: str = HOST
    work: Work = "compute"

    def reads(self) -> list[Operand]:
        """Operands that it reads."""
        return list(self.sources)

    def writes(self) -> list[Operand]:
        """The result, and the state that it changes in place."""
        updated = self.node.traits.updates
        state = self.sources[self.node.declaration.operands.index(updated)] if updated else None
        return [self.result] if state is None else [self.result, state]


@dataclass(frozen=True)
class Addresses:
    """Where the operands of an executable are: in memory of their own, or at an offset in an arena.

    plans: the offset in bytes of each buffer, by arena. arenas: the memory of each. flags: the words by which streams
    wait for each other, FLAG_BYTES each; None if no stream waits.
    """

    plans: Mapping[str, Arena]
    arenas: Mapping[str, Memory]
    flags: Memory | None = None

    def at(self, operand: Operand) -> tuple[Memory, int]:
        """The memory that holds an operand, and where it starts in it."""
        buffer = operand.buffer
        if buffer.memory is not None:
            return buffer.memory, operand.offset
        return self.arenas[buffer.arena], self.plans[buffer.arena].offsets[buffer] + operand.offset

    def address(self, operand: Operand) -> int:
        """The address of an operand's first byte."""
        memory, start = self.at(operand)
        return memory.address + start

    def flag(self, number: int) -> int:
        """The address of a flag's word."""
        assert self.flags is not None, "no stream waits for another"
        return self.flags.address + FLAG_BYTES * number

    def span(self, operand: Operand) -> tuple[int, int]:
        """First address and end of an operand's buffer. No two devices share addresses."""
        start = self.address(operand) - operand.offset
        return start, start + operand.buffer.nbytes

    def array(self, operand: Operand, shape: tuple[int, ...]) -> NDArray[Any]:
        """The operand's memory as an array of an actual shape, which keeps that memory alive."""
        memory, start = self.at(operand)
        return np.ndarray(shape, operand.type.dtype.numpy, memory.bytes, start, operand.strides)

    def values(self, operand: Operand, shape: tuple[int, ...]) -> NDArray[Any]:
        """The operand's values; a copy in float32 where numpy does not have its type."""
        dtype, (memory, start) = operand.type.dtype, self.at(operand)
        if dtype.numpy is not None:
            return self.array(operand, shape)
        rows = (*shape[:-1], dtype.row_bytes(shape[-1]))  # of a view, they are parts of wider rows
        raw = np.ndarray(rows, np.uint8, memory.bytes, start, (*operand.strides[:-1], 1))
        return dtype.dequantize(np.ascontiguousarray(raw).reshape(-1), shape)


NOWHERE = Memory(0, 0)


def sized(device: str, leaf: Tensor) -> Operand:
    """An operand of a leaf with a size but no bytes, to plan with."""
    return dense(Buffer(leaf.name, leaf.type.nbytes, NOWHERE, device=device), leaf.type)


def dense(buffer: Buffer, type: TensorType) -> Operand:
    """The operand that is a whole buffer, row after row without gaps."""
    return Operand(buffer, type, contiguous_strides(type))


def contiguous_strides(type: TensorType) -> tuple[int, ...]:
    """Byte strides of a dense tensor; the last one is 0 for types whose elements have no address of their own."""
    dims = [int(d) for d in type.shape]
    item = 0 if type.dtype.block > 1 else type.dtype.nbytes
    strides, size = [item], type.dtype.row_bytes(dims[-1])
    for d in reversed(dims[:-1]):
        strides.append(size)
        size *= d
    return tuple(reversed(strides))
