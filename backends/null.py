"""Devices that lower and plan memory without weights, kernels or arithmetic. What `plan` stands on."""

from collections.abc import Mapping, Sequence

from graphsched.backends.cpu.device import CpuDevice
from graphsched.backends.sim import runs_as_on_a_gpu
from graphsched.graph.tensor import Tensor
from graphsched.run.device import Device, Progress, Raw, Setup, StepTime
from graphsched.run.operand import NOWHERE, Addresses, Item, Memory
from graphsched.types.devices import HOST


class NullProgram:
    """Does nothing."""

    def launch(self, lengths: Mapping[str, int], trace: int = 0) -> int:
        """Runs nothing."""
        return 0

    def wait(self) -> None:
        """Returns at once."""

    def times(self, mark: int) -> list[StepTime]:
        """No times."""
        return []

    def lines(self) -> list[str]:
        """No lines."""
        return []


class NullDevice(CpuDevice):
    """The CPU, or a device that has its kernels, without memory."""

    def __init__(self, name: str, setup: Setup) -> None:
        super().__init__(setup)
        self.name = name

    def supports(self, node: Tensor) -> bool:
        """Whether it has a kernel for a node."""
        return self.name == HOST or runs_as_on_a_gpu(node)

    def allocate(self, nbytes: int) -> Memory:
        """No memory."""
        return NOWHERE

    def adopt(self, raw: Raw, leaf: Tensor | None = None) -> Memory:
        """No memory."""
        return NOWHERE

    def pack(  # type: ignore[override]  # what it returns cannot run
        self, items: Sequence[Item], addresses: Addresses, progress: Progress | None = None
    ) -> NullProgram:
        """A program that does nothing."""
        return NullProgram()


def open_host(setup: Setup) -> Device:
    """The host without memory: it plans and cannot run."""
    return NullDevice(HOST, setup)


def open_device(name: str, setup: Setup, host: Device) -> Device:
    """A device without memory: it plans and cannot run."""
    if not name.startswith("CUDA"):
        return NullDevice(name, setup)
    from graphsched.backends.cuda import null  # some 50 modules, which plans without a GPU do not need

    return null.open_device(name, setup, host)
