"""The only file that imports `cuda`: can a GPU be used, and thin typed calls over cuda.core when one can.

`probe()` comes first: without a driver some cuda.core calls leave a lock held and the next hangs for ever.
"""

import ctypes
import re
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.signature import KernelError, Signature

LIBCUDA = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
OLDEST = 13000  # cubins of NVRTC 13 run on every driver of CUDA 13: 580 and newer
NO_DEVICE = 100
LARGE_SHARED = 48 * 1024  # a block gets more than this only after its kernel asks for it


# ---- whether a GPU can be used


def probe(
    load: Callable[[str], Any] = ctypes.CDLL, nvrtc: Callable[[], str | None] | None = None
) -> str | None:
    """Why no GPU can be used, in one sentence, or None when one can; never raises."""
    try:
        lib = load(LIBCUDA)
    except OSError:
        return f"no NVIDIA driver ({LIBCUDA} was not found)"
    return _driver_reason(lib) or (nvrtc or nvrtc_reason)()


def _driver_reason(lib: Any) -> str | None:
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    error = lib.cuInit(0)
    if error not in (0, NO_DEVICE):
        return f"the NVIDIA driver does not start (cuInit returned {error})"
    if error == NO_DEVICE or lib.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    lib.cuDriverGetVersion(ctypes.byref(version))
    v = version.value
    if v < OLDEST:
        known = f"{v // 1000}.{v % 1000 // 10}"
        return f"the NVIDIA driver is too old: it knows CUDA {known}, 13.0 is needed (driver 580)"
    return None


def nvrtc_reason() -> str | None:
    """Why kernels cannot be compiled, or None."""
    try:
        nvrtc_version()
    except ImportError:
        return "cuda-bindings is not installed (pip install 'graphsched[cuda]')"
    except Exception:  # pathfinder's own error type differs between its versions; any of them means the same
        return "NVRTC, which compiles the kernels, was not found (pip install 'graphsched[cuda]')"
    return None


# ---- compiling


def _check(result: tuple[Any, ...]) -> Any:
    """The value of a cuda.bindings call, whose tuple starts with the status."""
    error, *values = result
    if int(error):
        raise KernelError(f"CUDA: {error.name}")
    return values[0] if len(values) == 1 else tuple(values)


@cache
def nvrtc_version() -> str:
    """NVRTC's version, "13.0"; raises where NVRTC cannot be loaded."""
    from cuda.bindings import nvrtc

    major, minor = _check(nvrtc.nvrtcVersion())
    return f"{major}.{minor}"


def compile_cubin(source: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Machine code and compiler log. Never PTX: a driver refuses PTX of a newer NVRTC, but not its cubin."""
    from cuda.bindings import nvrtc

    program = _check(nvrtc.nvrtcCreateProgram(source.encode(), b"graphsched.cu", 0, [], []))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
        log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
        _check(nvrtc.nvrtcGetProgramLog(program, log))
        text = log.rstrip(b" \0").decode(errors="replace")
        if int(status):
            raise KernelError(f"NVRTC: {status.name}\n{text}")
        cubin = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
        _check(nvrtc.nvrtcGetCUBIN(program, cubin))
        return cubin, text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


# ---- a device and what runs on it


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel and what it takes."""

    handle: Any
    signature: Signature
    device: int


@dataclass(frozen=True)
class Gpu:
    """One CUDA device, opened: its name and what decides tiling; `core` is cuda.core's Device."""

    ordinal: int
    name: str
    arch: str  # "sm_90"
    multiprocessors: int
    l2_bytes: int
    core: Any


def driver_version() -> str:
    """The newest CUDA that the driver knows, "13.0"."""
    from cuda.bindings import driver

    v = _check(driver.cuDriverGetVersion())
    return f"{v // 1000}.{v % 1000 // 10}"


def open_gpu(ordinal: int = 0) -> Gpu:
    """Make device `ordinal` current in this thread."""
    from cuda.core import Device

    d = Device(ordinal)
    d.set_current()
    p = d.properties
    return Gpu(ordinal, d.name, f"sm_{d.arch}", p.multiprocessor_count, p.l2_cache_size, d)


def new_stream(gpu: Gpu) -> Any:
    """A stream that does not wait for the legacy default stream."""
    from cuda.core import StreamOptions

    return gpu.core.create_stream(options=StreamOptions(nonblocking=True))


def record(stream: Any, timed: bool = False) -> Any:
    """An event at the stream's present end."""
    from cuda.core import EventOptions

    event = stream.device.create_event(options=EventOptions(timing_enabled=timed))
    stream.record(event)
    return event


def allocate(gpu: Gpu, nbytes: int, stream: Any) -> Any:
    """Device memory, ordered on `stream`."""
    return gpu.core.allocate(max(nbytes, 1), stream=stream)


def free_memory() -> tuple[int, int]:
    """Bytes of device memory: free, total."""
    from cuda.bindings import driver

    free, total = _check(driver.cuMemGetInfo())
    return int(free), int(total)


def pinned(nbytes: int) -> tuple[Any, NDArray[np.uint8]]:
    """Page-locked host memory and a view of it; the memory lives as long as the first value."""
    from cuda.core import LegacyPinnedMemoryResource

    buffer = LegacyPinnedMemoryResource().allocate(nbytes)
    view: NDArray[np.uint8] = np.from_dlpack(buffer).view(np.uint8)
    return buffer, view


def upload_later(dst: Any, offset: int, host: int, nbytes: int, stream: Any) -> None:
    """Host address → `dst` + offset, in `stream`'s order; pinned memory must keep its contents until then."""
    from cuda.bindings import driver

    _check(driver.cuMemcpyHtoDAsync(int(dst.handle) + offset, host, nbytes, stream.handle))


def download_later(src: Any, offset: int, host: int, nbytes: int, stream: Any) -> None:
    """`src` + offset → host address, in `stream`'s order."""
    from cuda.bindings import driver

    _check(driver.cuMemcpyDtoHAsync(host, int(src.handle) + offset, nbytes, stream.handle))


def upload(dst: Any, array: NDArray[Any], stream: Any, offset: int = 0) -> None:
    """`array` → `dst` + offset. From pageable memory: when this returns, the array may be changed."""
    a = np.ascontiguousarray(array)
    if a.nbytes:
        upload_later(dst, offset, a.ctypes.data, a.nbytes, stream)
        stream.sync()


def download(src: Any, array: NDArray[Any], stream: Any, offset: int = 0) -> None:
    """`src` + offset → `array`, finished when this returns."""
    if array.nbytes:
        download_later(src, offset, array.ctypes.data, array.nbytes, stream)
    stream.sync()


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
        _check(driver.cuKernelSetAttribute(a, nbytes, k.handle.handle, k.device))


def launch(
    stream: Any,
    k: Kernel,
    grid: Sequence[int],
    block: int,
    args: Sequence[object],
    shared: int = 0,
    pdl: bool = False,
) -> None:
    """Enqueue `k`; `stream` may be a graph builder. `pdl`: it may start while its predecessor still runs.

    `pdl` is right only for kernels that call gs_pdl_wait() in every thread before they touch an activation.
    """
    from cuda.core import LaunchConfig
    from cuda.core import launch as core_launch

    config = LaunchConfig(
        grid=tuple(grid), block=(block,), shmem_size=shared, programmatic_stream_serialization=pdl
    )
    core_launch(stream, config, k.handle, *k.signature.pack(args))


def capture(stream: Any, work: Callable[[Any], None]) -> Any:
    """What `work(builder)` launches, as a CUDA graph; the caller keeps its buffers alive."""
    builder = stream.create_graph_builder().begin_building()
    work(builder)
    return builder.end_building().complete()


# ---- memory by address, words that streams wait for, graphs


def use(gpu: Gpu) -> None:
    """Makes the device current in this thread."""
    gpu.core.set_current()


def malloc(nbytes: int) -> int:
    """The address of device memory; MemoryError where it does not fit."""
    from cuda.bindings import driver

    error, address = driver.cuMemAlloc(max(nbytes, 1))
    if error == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise MemoryError(nbytes)
    _check((error,))
    return int(address)


def free(address: int) -> None:
    from cuda.bindings import driver

    driver.cuMemFree(address)


def fill(address: int, value: int, nbytes: int, stream: Any) -> None:
    """Sets bytes, and returns when they are set."""
    from cuda.bindings import driver

    _check(driver.cuMemsetD8Async(address, value, nbytes, stream.handle))
    stream.sync()


def host_alloc(nbytes: int) -> NDArray[np.uint8]:
    """Zeroed page-locked memory that kernels and copies of every device may read; freed with the array."""
    from cuda.bindings import driver

    flags = driver.CU_MEMHOSTALLOC_PORTABLE | driver.CU_MEMHOSTALLOC_DEVICEMAP
    address = int(_check(driver.cuMemHostAlloc(max(nbytes, 1), flags)))
    raw = (ctypes.c_uint8 * max(nbytes, 1)).from_address(address)
    weakref.finalize(raw, driver.cuMemFreeHost, address).atexit = False
    array = np.ctypeslib.as_array(raw)
    array[:] = 0
    return array


def copy_up(to: int, host: int, nbytes: int, stream: Any) -> None:
    """Page-locked host memory → device, in the stream's order."""
    from cuda.bindings import driver

    _check(driver.cuMemcpyHtoDAsync(to, host, nbytes, stream.handle))


def copy_down(host: int, source: int, nbytes: int, stream: Any) -> None:
    """Device → page-locked host memory, in the stream's order."""
    from cuda.bindings import driver

    _check(driver.cuMemcpyDtoHAsync(host, source, nbytes, stream.handle))


def copy_across(to: int, source: int, nbytes: int, stream: Any) -> None:
    """Device → device, the same or another, in the stream's order."""
    from cuda.bindings import driver

    _check(driver.cuMemcpyAsync(to, source, nbytes, stream.handle))


def await_word(address: int, stream: Any) -> None:
    """What follows in the stream starts when the word in host memory is 1."""
    from cuda.bindings import driver

    _check(driver.cuStreamWaitValue32(stream.handle, address, 1, 0))


def raise_word(address: int, stream: Any) -> None:
    """Sets the word in host memory to 1 when all before it in the stream is done and visible."""
    from cuda.bindings import driver

    _check(driver.cuStreamWriteValue32(stream.handle, address, 1, 0))


def finished(stream: Any) -> bool:
    """Whether all work of the stream is done; KernelError if some of it failed."""
    from cuda.bindings import driver

    (error,) = driver.cuStreamQuery(stream.handle)
    if error == driver.CUresult.CUDA_ERROR_NOT_READY:
        return False
    _check((error,))
    return True


def captured(stream: Any, work: Callable[[Any], None]) -> Any:
    """What `work(stream)` queues, as a graph that `replay` runs and `discard` frees; nothing runs now."""
    from cuda.bindings import driver

    mode = (
        driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    )  # memory may be freed by chance meanwhile
    _check(driver.cuStreamBeginCapture(stream.handle, mode))
    try:
        work(stream)
    finally:
        ended = driver.cuStreamEndCapture(stream.handle)
    graph = _check(ended)
    try:
        return _check(driver.cuGraphInstantiate(graph, 0))
    finally:
        driver.cuGraphDestroy(graph)


def replay(graph: Any, stream: Any) -> None:
    from cuda.bindings import driver

    _check(driver.cuGraphLaunch(graph, stream.handle))


def discard(graph: Any) -> None:
    from cuda.bindings import driver

    driver.cuGraphExecDestroy(graph)


def pci_bus(gpu: Gpu) -> str:
    """The PCI address, "0000:01:00.0"."""
    from cuda.bindings import driver

    text: bytes = _check(driver.cuDeviceGetPCIBusId(16, gpu.ordinal))
    return text.split(b"\0")[0].decode()


def copy_engines(gpu: Gpu) -> int:
    """Copies that may run beside kernels."""
    return int(gpu.core.properties.async_engine_count)


def device_count() -> int:
    from cuda.bindings import driver

    _check(driver.cuInit(0))
    return int(_check(driver.cuDeviceGetCount()))


def prepared(
    k: Kernel, grid: Sequence[int], block: int, args: Sequence[object], shared: int = 0, pdl: bool = False
) -> Callable[[Any], None]:
    """launch() with everything but the stream made once."""
    from cuda.core import LaunchConfig
    from cuda.core import launch as core_launch

    config = LaunchConfig(
        grid=tuple(grid), block=(block,), shmem_size=shared, programmatic_stream_serialization=pdl
    )
    packed = k.signature.pack(args)
    return lambda stream: core_launch(stream, config, k.handle, *packed)


def failed(stream: Any) -> bool:
    """Whether work of the stream has failed."""
    try:
        finished(stream)
    except KernelError:
        return True
    return False


def fault(name: str, error: Exception) -> KernelError:
    """What to say about a device that cannot go on."""
    known = re.search(r"CUDA_ERROR_\w+", str(error))
    return KernelError(f"{name} failed ({known[0] if known else error}); this session cannot go on")
