"""Memory of one GPU, the host memory that its copies use, and what is said when something does not fit."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.program.address_space import HostSpace
from graphsched.backends.cuda import driver
from graphsched.backends.cuda.driver.signature import KernelError
from graphsched.backends.cuda.packing.pieces import Packing
from graphsched.backends.cuda.stream.upload import Uploads
from graphsched.run.operand import Memory

Raw = NDArray[np.uint8]
_BOUNCE_BYTES = 1 << 24  # of page-locked memory through which caches are read and written


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
        """Sets every byte, and returns when they are set."""
        driver.fill(self.address, value, self.nbytes, self.device.stream)

    def read(self, rows: NDArray[np.int32], out: Raw) -> None:
        """Fills out u8[n, row_bytes] with copies of rows."""
        self.device.settle()
        for first, place, pinned in self._parts(rows, out):
            driver.copy_down(pinned.ctypes.data, self.address + first, pinned.size, self.device.stream)
            self.device.stream.sync()
            place[:] = pinned.reshape(place.shape)

    def write(self, rows: NDArray[np.int32], values: Raw) -> None:
        """Sets rows to values u8[n, row_bytes]."""
        self.device.settle()
        for first, place, pinned in self._parts(rows, values):
            pinned[:] = place.reshape(-1)
            driver.copy_up(self.address + first, pinned.ctypes.data, pinned.size, self.device.stream)
            self.device.stream.sync()

    def _parts(self, rows: NDArray[np.int32], values: Raw) -> Iterator[tuple[int, Raw, Raw]]:
        """Rows that follow each other: the first byte of each such part, its values, and page-locked memory for it."""
        driver.use(self.device.gpu)
        row_bytes = values.shape[1]
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        most = max(_BOUNCE_BYTES // row_bytes, 1)
        pinned = _staging(min(len(rows), most) * row_bytes)
        for begin, end in itertools.pairwise((0, *cuts.tolist(), len(rows))):
            for at in range(begin, end, most):
                part = values[at : min(at + most, end)]
                yield int(rows[at]) * row_bytes, part, pinned[: part.size]


@dataclass(frozen=True)
class StreamLink:
    """What an upload is sent over."""

    stream: Any

    def send(self, to: int, host: int, nbytes: int) -> None:
        """Queues a copy of page-locked bytes to an address of the device."""
        driver.copy_up(to, host, nbytes, self.stream)

    def record(self) -> Any:
        """An event that is reached when all that was sent has arrived."""
        return driver.record(self.stream)

    def sync(self) -> None:
        """Returns when all that was sent has arrived."""
        self.stream.sync()


class DeviceMemory:
    """Allocations of one session on one GPU."""

    def __init__(self, name: str, gpu: driver.Gpu) -> None:
        self.name, self.gpu, self.stream = name, gpu, driver.new_stream(gpu)
        self._blocks: list[int] = []
        self._uploads = Uploads(StreamLink(self.stream), _staging)

    def allocate(self, nbytes: int, what: str = "", hint: str = "") -> Memory:
        """Zeroed memory; KernelError names what did not fit and the flags that help."""
        memory = self._block(nbytes, what, hint)
        driver.fill(memory.address, 0, nbytes, self.stream)
        return memory

    def adopt(self, raw: Raw, how: Packing, what: str, hint: str) -> Memory:
        """The host's bytes `raw`, as the kernels read them; under way when this returns."""
        memory = self._block(how.nbytes, what, hint, raw)
        self._uploads.send(memory.address, raw, how)
        return memory

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

    def settle(self) -> None:
        """Returns when all that was adopted is there."""
        self._uploads.settle()

    def close(self) -> None:
        """Frees all memory of the device."""
        driver.use(self.gpu)
        self._uploads.close()
        for address in self._blocks:
            driver.free(address)
        self._blocks.clear()
        self.stream.close()


def _staging(nbytes: int) -> Raw:
    return PinnedSpace().allocate(nbytes, "uploads", "--device none needs none").bytes


def size(nbytes: int) -> str:
    """Bytes for a sentence, in MB or GB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.2f} MB"
