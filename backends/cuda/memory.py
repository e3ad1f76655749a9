"""Memory of one GPU, the host memory that its copies use, and what is said when something does not fit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.space import HostSpace
from graphsched.backends.cuda import driver
from graphsched.backends.cuda.signature import KernelError
from graphsched.operand import Memory

Raw = NDArray[np.uint8]
SLOT = (
    8 << 20
)  # bytes of one of the two staging slots: enough for the link, and filled while the other is sent


class PinnedSpace(HostSpace):
    """The host's memory where a GPU copies: page-locked, at addresses that are the same for kernels."""

    def allocate(self, nbytes: int) -> Memory:
        raw = driver.host_alloc(nbytes)[:nbytes]
        return Memory(raw.ctypes.data, raw.size, raw)


@dataclass(frozen=True, eq=False)
class Block:
    """What a `Memory` of this device knows about itself; `raw`: the host's bytes of a weight."""

    device: "DeviceMemory"
    address: int
    nbytes: int
    raw: Raw | None = None

    def fill(self, value: int) -> None:
        driver.fill(self.address, value, self.nbytes, self.device.stream)


class DeviceMemory:
    """Allocations of one session on one GPU."""

    def __init__(self, name: str, gpu: driver.Gpu) -> None:
        self.name, self.gpu, self.stream = name, gpu, driver.new_stream(gpu)
        self._blocks: list[int] = []
        self._slots: list[Raw] = []

    def allocate(self, nbytes: int, what: str = "", hint: str = "", raw: Raw | None = None) -> Memory:
        """Zeroed memory; KernelError names what did not fit and the flags that help."""
        driver.use(self.gpu)
        try:
            address = driver.malloc(nbytes)
        except MemoryError:
            raise KernelError(self._too_much(nbytes, what, hint)) from None
        self._blocks.append(address)
        driver.fill(address, 0, nbytes, self.stream)
        return Memory(address, nbytes, owner=Block(self, address, nbytes, raw))

    def _too_much(self, nbytes: int, what: str, hint: str) -> str:
        free, total = driver.free_memory()
        return (
            f"{self.name}: {size(nbytes)} for {what or 'caches and intermediate results'} do not fit, "
            f"{size(free)} of {size(total)} are free; "
            f"{hint or 'a smaller -c or -ub, -ctk and -ctv q8_0, or a lower -ngl helps'}"
        )

    def upload(self, memory: Memory, raw: Raw) -> None:
        """Copies through two page-locked slots, one of which fills while the other is sent."""
        while len(self._slots) < 2:
            self._slots.append(driver.host_alloc(SLOT))
        sent: list[Any] = [None, None]
        for number, start in enumerate(range(0, raw.size, SLOT)):
            piece, slot = raw[start : start + SLOT], number % 2
            if sent[slot] is not None:
                sent[slot].sync()
            self._slots[slot][: piece.size] = piece
            driver.copy_up(memory.address + start, self._slots[slot].ctypes.data, piece.size, self.stream)
            sent[slot] = driver.record(self.stream)
        self.stream.sync()

    def close(self) -> None:
        driver.use(self.gpu)
        for address in self._blocks:
            driver.free(address)
        self._blocks.clear()
        self._slots.clear()
        self.stream.close()


def size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.2f} MB"
