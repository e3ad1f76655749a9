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

    def allocate(self, nbytes: int, what: str = "caches and intermediate results", hint: str = "") -> Memory:
        """Zeroed memory; KernelError names what did not fit and the flags that help."""
        try:
            raw = driver.host_alloc(nbytes)[:nbytes]
        except MemoryError:
            sentence = f"{size(nbytes)} of page-locked host memory for {what} do not fit"
            raise KernelError(f"{sentence}; {hint or 'a smaller -c or -ub helps'}") from None
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


@dataclass
class Slot:
    """Page-locked memory that copies are sent from, and the event behind the last one."""

    bytes: Raw
    sent: Any = None


class DeviceMemory:
    """Allocations of one session on one GPU."""

    def __init__(self, name: str, gpu: driver.Gpu) -> None:
        self.name, self.gpu, self.stream = name, gpu, driver.new_stream(gpu)
        self._blocks: list[int] = []
        self._slots: list[Slot] = []
        self._next = 0

    def allocate(self, nbytes: int, what: str = "", hint: str = "") -> Memory:
        """Zeroed memory; KernelError names what did not fit and the flags that help."""
        made = self._block(nbytes, what, hint)
        driver.fill(made.address, 0, nbytes, self.stream)
        return made

    def adopt(self, own: Raw, raw: Raw, what: str, hint: str) -> Memory:
        """A copy of the host's bytes `raw` as `own`, which the kernels read; under way when this returns."""
        made = self._block(own.size, what, hint, raw)
        self._upload(made.address, own)
        return made

    def _block(self, nbytes: int, what: str, hint: str, raw: Raw | None = None) -> Memory:
        driver.use(self.gpu)
        try:
            address = driver.malloc(nbytes)
        except MemoryError:
            raise KernelError(self._too_much(nbytes, what, hint)) from None
        self._blocks.append(address)
        return Memory(address, nbytes, owner=Block(self, address, nbytes, raw))

    def _too_much(self, nbytes: int, what: str, hint: str) -> str:
        free, total = driver.free_memory()
        return (
            f"{self.name}: {size(nbytes)} for {what or 'caches and intermediate results'} do not fit, "
            f"{size(free)} of {size(total)} are free; "
            f"{hint or 'a smaller -c or -ub, -ctk and -ctv q8_0, or a lower -ngl helps'}"
        )

    def _upload(self, address: int, raw: Raw) -> None:
        """Copies through two page-locked slots: one fills, with the next tensor, too, while the other is sent."""
        for start in range(0, raw.size, SLOT):
            slot = self._slots[self._next] if len(self._slots) == 2 else self._new_slot()
            self._next = (self._next + 1) % 2
            piece = raw[start : start + SLOT]
            if slot.sent is not None:
                slot.sent.sync()
            slot.bytes[: piece.size] = piece
            driver.copy_up(address + start, slot.bytes.ctypes.data, piece.size, self.stream)
            slot.sent = driver.record(self.stream)

    def _new_slot(self) -> "Slot":
        self._slots.append(Slot(PinnedSpace().allocate(SLOT, "uploads", "--device none needs none").bytes))
        return self._slots[-1]

    def settle(self) -> None:
        """Returns when all that was adopted is there."""
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
