"""A GPU without memory, to plan with: what its kernels can do, whether there is one or not."""

from collections.abc import Callable

from graphsched import env
from graphsched.backends.cuda.launch.lowering import Low
from graphsched.backends.cuda.launch.weights import packed_bytes
from graphsched.backends.cuda.support import has_kernel, kernel_type
from graphsched.backends.null import NullDevice
from graphsched.graph.tensor import Tensor, TensorType
from graphsched.run import lowering
from graphsched.run.device import Device, Setup
from graphsched.run.operand import Item, Operand
from graphsched.types.dtypes import DType


class NullGpu(NullDevice):
    """Lowers and plans as `CudaDevice` does."""

    def supports(self, node: Tensor) -> bool:
        """Whether it has a kernel for a node."""
        return has_kernel(node)

    def kernel_type(self, leaf: Tensor) -> DType:
        """The type in which kernels read a weight or cache."""
        return kernel_type(leaf)

    def weight_bytes(self, type: TensorType) -> int:
        """Bytes that a weight takes in its memory."""
        return packed_bytes(type)

    def lowering(self, leaf: Callable[[Tensor], Operand], items: list[Item]) -> lowering.Low:  # type: ignore[override]  # another backend's
        """What lowers nodes of this device to `items`."""
        return Low("cuda", leaf, items, self.adopt, 1, self.name, fuses=env.cuda_fusion())


def open_device(name: str, setup: Setup, host: Device) -> Device:
    """A GPU without memory: it plans and cannot run."""
    return NullGpu(name, setup)
