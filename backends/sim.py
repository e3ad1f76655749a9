"""Simulated devices: the CPU's kernels on memory of their own, whose addresses are never mapped.

Their steps are part of the host's program, or run in streams of their own: one thread each for compute, uploads and
downloads, ordered by flags as on a real device. Their times come from the virtual clock of a described machine.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cpu.device import CpuDevice, compile_kernels
from graphsched.backends.cpu.program import pack as program
from graphsched.backends.cpu.program.address_space import SimSpace
from graphsched.backends.cpu.program.layout import ABORT
from graphsched.backends.cpu.program.lowering import Low, new_low
from graphsched.backends.cpu.program.pack import Step
from graphsched.backends.cpu.program.runner import StreamProgram
from graphsched.backends.cpu.program.transfer import copy_step
from graphsched.backends.cuda.launch.fused import takes_whole
from graphsched.graph.ops.several import between, made_of
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.machine import description
from graphsched.run.device import Device, Progress, Raw, Setup
from graphsched.run.lowering import has_kernel
from graphsched.run.operand import Addresses, Item, Memory, Operand, Work
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType


class SimDevice:
    """One simulated device; the host's packer translates its addresses."""

    def __init__(self, name: str, setup: Setup, host: CpuDevice) -> None:
        self.name, self._host = name, host
        self._space = SimSpace(len(host.spaces) - 1)
        host.spaces[name] = self._space
        own: dict[Work, str] = {"compute": name, "up": f"{name} up", "down": f"{name} down"}
        shared: dict[Work, str] = {"compute": HOST, "up": HOST, "down": HOST}
        self.streams: Mapping[Work, str] = MappingProxyType(own if setup.streams else shared)
        self._blocks: list[NDArray[np.int64]] = []  # a run block for each stream's program

    def supports(self, node: Tensor) -> bool:
        """Whether it has a kernel for a node."""
        return runs_as_on_a_gpu(node)

    def kernel_type(self, leaf: Tensor) -> DType:
        """The type in which kernels read a weight or cache."""
        return self._host.kernel_type(leaf)

    def weight_bytes(self, type: TensorType) -> int:
        """Bytes that a weight takes in its memory."""
        return type.nbytes

    def allocate(self, nbytes: int) -> Memory:
        """Zeroed memory of `nbytes` bytes."""
        return self._space.allocate(nbytes)

    def adopt(self, raw: Raw, leaf: Tensor | None = None) -> Memory:
        """The host's bytes `raw` as memory of the device."""
        return self._space.adopt(raw)

    def lowering(self, leaf: Callable[[Tensor], Operand], items: list[Item]) -> Low:
        """What lowers nodes of this device to `items`."""
        return new_low(leaf, items, self.adopt, self._host.setup, self.name)

    def copy(self, source: Operand, result: Operand, ids: Operand | None = None) -> Step:
        """An item that copies a tensor; of experts those that `ids` name."""
        return copy_step(source, result, self.name, ids)

    def pack(
        self, items: Sequence[Item], addresses: Addresses, progress: Progress | None = None
    ) -> StreamProgram:
        """A program of one stream, whose kernels are compiled; operands at `addresses`."""
        compile_kernels(items, progress)
        self._blocks.append(self._host.run_block.copy())
        return StreamProgram(
            program.pack(items, addresses, self._host.spaces), self._blocks[-1], self._host.ring
        )

    def abort(self, on: bool) -> None:
        """With `on`, runs skip the steps that they have not begun, until it is called without."""
        for block in self._blocks:
            block[ABORT] = int(on)

    def close(self) -> None:
        """Its memory goes with it."""


def runs_as_on_a_gpu(node: Tensor) -> bool:
    """Whether the host has kernels for a node, or for all that it fuses, and a GPU takes it whole: launches count."""
    return takes_whole(node) and all(map(has_kernel, between(node.sources, made_of(node))))


def open_device(name: str, setup: Setup, host: Device) -> Device:
    """The device called `name`, beside `host`."""
    assert isinstance(host, CpuDevice), "simulated devices run the CPU's kernels"
    return SimDevice(name, setup, host)


def n_devices(spec: str) -> int:
    """How many devices a described machine has. OptionError for one that is not described."""
    return len(description.load(spec).devices)
