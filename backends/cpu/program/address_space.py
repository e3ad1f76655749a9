"""Memory of the host and of simulated devices.

A simulated device's addresses come from a range that is never mapped. Only its own space translates them: a kernel
that is handed one by mistake faults at once instead of quietly reading another device's memory.
"""

import bisect
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graphsched.run.operand import Memory

SIM_RANGE = 1 << 52  # above every address that x86-64 or AArch64 maps for a process
SIM_STRIDE = 1 << 44  # addresses of one simulated device


class Space(Protocol):
    """A device's address space."""

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed memory at a multiple of 64 bytes."""

    def adopt(self, raw: NDArray[np.uint8]) -> Memory:
        """Makes bytes of the host available: in place on the host, as a copy elsewhere."""

    def translate(self, address: int) -> int:
        """The address that a kernel of this device uses."""


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """Zeroed bytes at an address that is a multiple of 64; the system hands out zeroed pages on first use."""
    raw = np.zeros(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


class HostSpace:
    """Plain memory."""

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed memory at a multiple of 64 bytes."""
        raw = aligned(nbytes)
        return Memory(raw.ctypes.data, raw.size, raw)

    def adopt(self, raw: NDArray[np.uint8]) -> Memory:
        """Bytes of the host as memory of this device."""
        return Memory(raw.ctypes.data, raw.size, raw)

    def translate(self, address: int) -> int:
        """The address of the host that a kernel uses; AssertionError for one of another device."""
        assert address < SIM_RANGE, "the host was handed an address of a simulated device"
        return address


class SimSpace:
    """Simulated device number `index`."""

    def __init__(self, index: int) -> None:
        self._next = SIM_RANGE + index * SIM_STRIDE
        self._starts: list[int] = []
        self._blocks: list[Memory] = []

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed memory at a multiple of 64 bytes."""
        return self._register(aligned(nbytes))

    def adopt(self, raw: NDArray[np.uint8]) -> Memory:
        """Bytes of the host as memory of this device."""
        copy = aligned(raw.size)
        copy[:] = raw
        return self._register(copy)

    def _register(self, raw: NDArray[np.uint8]) -> Memory:
        memory = Memory(self._next, raw.size, raw)
        self._starts.append(self._next)
        self._blocks.append(memory)
        self._next += -(-raw.size // 4096) * 4096 + 4096  # a gap, so that no block ends where the next begins
        return memory

    def translate(self, address: int) -> int:
        """The address of the host that a kernel uses; AssertionError for one of another device."""
        i = bisect.bisect_right(self._starts, address) - 1
        assert i >= 0, f"{address:#x} is not an address of this device"
        block = self._blocks[i]
        assert address <= block.address + block.bytes.size, f"{address:#x} is outside this device's blocks"
        return block.bytes.ctypes.data + address - block.address
