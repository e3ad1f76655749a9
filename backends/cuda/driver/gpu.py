"""A GPU and what is known of it."""

from dataclasses import dataclass
from typing import Any

from graphsched.backends.cuda.driver.status import check


@dataclass(frozen=True)
class Gpu:
    """One CUDA device, opened: its name and what decides tiling; `core` is cuda.core's Device."""

    ordinal: int
    name: str
    arch: str  # "sm_90"
    multiprocessors: int
    l2_bytes: int
    core: Any


def open_gpu(ordinal: int = 0) -> Gpu:
    """Make device `ordinal` current in this thread."""
    from cuda.core import Device

    d = Device(ordinal)
    d.set_current()
    p = d.properties
    return Gpu(ordinal, d.name, f"sm_{d.arch}", p.multiprocessor_count, p.l2_cache_size, d)


def use(gpu: Gpu) -> None:
    """Makes the device current in this thread."""
    gpu.core.set_current()


def device_count() -> int:
    """GPUs that the driver shows; `probe()` comes first."""
    from cuda.bindings import driver

    check(driver.cuInit(0))
    return int(check(driver.cuDeviceGetCount()))


def driver_version() -> str:
    """The newest CUDA that the driver knows, "13.0"."""
    from cuda.bindings import driver

    v = check(driver.cuDriverGetVersion())
    return f"{v // 1000}.{v % 1000 // 10}"


def free_memory() -> tuple[int, int]:
    """Bytes of device memory: free, total."""
    from cuda.bindings import driver

    free, total = check(driver.cuMemGetInfo())
    return int(free), int(total)


def pci_bus(gpu: Gpu) -> str:
    """The PCI address, "0000:01:00.0"."""
    from cuda.bindings import driver

    text: bytes = check(driver.cuDeviceGetPCIBusId(16, gpu.ordinal))
    return text.split(b"\0")[0].decode()


def copy_engines(gpu: Gpu) -> int:
    """Copies that may run beside kernels."""
    return int(gpu.core.properties.async_engine_count)


def has_stream_memory_operations(gpu: Gpu) -> bool:
    """Whether streams can wait for, and write, words of host memory.

    The attribute is that of the present interface, which needs no setting of the driver as the first one did.
    """
    from cuda.bindings import driver

    a = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS
    return bool(check(driver.cuDeviceGetAttribute(a, gpu.ordinal)))
