"""Plain calls for measurements and checks on a GPU: memory, copies that are done when they return, single launches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.driver.status import check


def launch(
    stream: Any,
    kernel: driver.Kernel,
    grid: Sequence[int],
    block: int,
    args: Sequence[object],
    shared: int = 0,
    pdl: bool = False,
) -> None:
    """Enqueues a kernel."""
    driver.prepared(kernel, grid, block, args, shared, pdl)(stream)


def allocate(gpu: driver.Gpu, nbytes: int, stream: Any) -> Any:
    """Device memory, ordered on `stream`."""
    return gpu.core.allocate(max(nbytes, 1), stream=stream)


def pinned(nbytes: int) -> tuple[Any, NDArray[np.uint8]]:
    """Page-locked host memory and a view of it; the memory lives as long as the first value."""
    from cuda.core import LegacyPinnedMemoryResource

    buffer = LegacyPinnedMemoryResource().allocate(nbytes)
    view: NDArray[np.uint8] = np.from_dlpack(buffer).view(np.uint8)
    return buffer, view


def upload_later(dst: Any, offset: int, host: int, nbytes: int, stream: Any) -> None:
    """Host address → `dst` + offset, in `stream`'s order; pinned memory must keep its contents until then."""
    from cuda.bindings import driver as cuda

    check(cuda.cuMemcpyHtoDAsync(int(dst.handle) + offset, host, nbytes, stream.handle))


def download_later(src: Any, offset: int, host: int, nbytes: int, stream: Any) -> None:
    """`src` + offset → host address, in `stream`'s order."""
    from cuda.bindings import driver as cuda

    check(cuda.cuMemcpyDtoHAsync(host, int(src.handle) + offset, nbytes, stream.handle))


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
