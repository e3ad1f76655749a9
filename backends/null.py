"""Devices that lower and plan memory without weights, kernels or arithmetic. What `plan` stands on."""

from collections.abc import Callable, Mapping, Sequence

from graphsched.backends.cpu.device import CpuDevice
from graphsched.backends.cuda import device as gpu
from graphsched.backends.cuda.lowering import Low
from graphsched.backends.cuda.weights import packed_bytes
from graphsched.backends.sim import runs_as_on_a_gpu
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run import lowering
from graphsched.run.device import Device, Progress, Raw, Setup, StepTime
from graphsched.run.operand import NOWHERE, Item, Memory, Operand, Places
from graphsched.types.devices import HOST
from graphsched.types.dtypes import DType


class NullProgram:
    """Does nothing."""

    def launch(self, lengths: Mapping[str, int], trace: int = 0) -> int:
        return 0

    def wait(self) -> None:
        pass

    def times(self, mark: int) -> list[StepTime]:
        return []

    def lines(self) -> list[str]:
        return []


class NullDevice(CpuDevice):
    """The CPU, or a device that has its kernels, without memory."""

    def __init__(self, name: str, setup: Setup) -> None:
        super().__init__(setup)
        self.name = name

    def supports(self, node: Tensor) -> bool:
        return self.name == HOST or runs_as_on_a_gpu(node)

    def allocate(self, nbytes: int) -> Memory:
        return NOWHERE

    def adopt(self, raw: Raw, leaf: Tensor | None = None) -> Memory:
        return NOWHERE

    def pack(self, items: Sequence[Item], places: Places, progress: Progress | None = None) -> NullProgram:  # type: ignore[override]  # what it returns cannot run
        return NullProgram()


class NullGpu(NullDevice):
    """A GPU without memory: what its kernels can do, whether there is one or not."""

    def supports(self, node: Tensor) -> bool:
        return gpu.has_kernel(node)

    def kernel_type(self, leaf: Tensor) -> DType:
        return gpu.kernel_type(leaf)

    def weight_bytes(self, type: TensorType) -> int:
        return packed_bytes(type)

    def lowering(self, leaf: Callable[[Tensor], Operand], items: list[Item]) -> lowering.Low:  # type: ignore[override]  # another backend's
        return Low("cuda", leaf, items, self.adopt, 1, self.name)


def open_host(setup: Setup) -> Device:
    return NullDevice(HOST, setup)


def open_device(name: str, setup: Setup, host: Device) -> Device:
    return (NullGpu if name.startswith("CUDA") else NullDevice)(name, setup)
