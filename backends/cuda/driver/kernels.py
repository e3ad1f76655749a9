"""Kernels out of cubins, and their launches with arguments that fit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphsched.backends.cuda.driver.gpu import Gpu
from graphsched.backends.cuda.driver.signature import KernelError, Signature
from graphsched.backends.cuda.driver.status import check

LARGE_SHARED = 48 * 1024  # a block gets more than this only after its kernel asks for it


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel and what it takes."""

    handle: Any
    signature: Signature
    device: int


def load_kernels(gpu: Gpu, cubin: bytes, signatures: dict[str, Signature]) -> dict[str, Kernel]:
    """The kernels of a cubin; each must take as many arguments, of the sizes, as its declaration says."""
    from cuda.core import ObjectCode

    module = ObjectCode.from_cubin(cubin)
    kernels = {name: Kernel(module.get_kernel(name), s, gpu.ordinal) for name, s in signatures.items()}
    for k in kernels.values():
        _verify(k)
    return kernels


def _verify(k: Kernel) -> None:
    got = [size for _, size in k.handle.arguments_info]
    want = [8 if t.endswith(("*", "64")) else 4 for t in k.signature.types]
    if got != want:
        raise KernelError(f"{k.signature.name}: declared argument sizes {want}, compiled {got}")


def allow_shared(k: Kernel, nbytes: int) -> None:
    """Let `k` have `nbytes` of dynamic shared memory; needed once, above 48 KiB."""
    from cuda.bindings import driver

    if nbytes > LARGE_SHARED:
        a = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        check(driver.cuKernelSetAttribute(a, nbytes, k.handle.handle, k.device))


def prepared(
    k: Kernel, grid: Sequence[int], block: int, args: Sequence[object], shared: int = 0, pdl: bool = False
) -> Callable[[Any], None]:
    """A launch of `k` with everything but the stream made once; the stream may be a graph builder.

    `pdl`: it may start while its predecessor still runs, which is right only for kernels that call gs_pdl_wait() in
    every thread before they touch an activation.
    """
    from cuda.core import LaunchConfig
    from cuda.core import launch as core_launch

    config = LaunchConfig(
        grid=tuple(grid), block=(block,), shmem_size=shared, programmatic_stream_serialization=pdl
    )
    packed = k.signature.pack(args)
    return lambda stream: core_launch(stream, config, k.handle, *packed)
