"""Memory of a GPU, page-locked memory of the host, and copies between them."""

import ctypes
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.driver.status import check


def malloc(nbytes: int) -> int:
    """The address of device memory; MemoryError where it does not fit."""
    from cuda.bindings import driver

    return _address(driver.cuMemAlloc(max(nbytes, 1)))


def _address(result: tuple[Any, ...]) -> int:
    from cuda.bindings import driver

    if result[0] == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
        raise MemoryError
    return int(check(result))


def free(address: int) -> None:
    """Frees what `malloc` gave; the driver may wait for the device."""
    from cuda.bindings import driver

    driver.cuMemFree(address)


def fill(address: int, value: int, nbytes: int, stream: Any) -> None:
    """Sets bytes, and returns when they are set."""
    from cuda.bindings import driver

    check(driver.cuMemsetD8Async(address, value, nbytes, stream.handle))
    stream.sync()


# Page-locked blocks that nobody has any more. Freeing one may wait until the device stands still, and an array may go
# at any moment: also while a stream waits for what this thread is about to do.
_unused: deque[int] = deque()


def free_unused() -> None:
    """Frees page-locked memory that nobody has any more; between runs."""
    from cuda.bindings import driver

    while _unused:
        driver.cuMemFreeHost(_unused.popleft())


def host_alloc(nbytes: int) -> NDArray[np.uint8]:
    """Zeroed page-locked memory that kernels and copies of every device may read; freed some time after the array.

    MemoryError where it does not fit.
    """
    from cuda.bindings import driver

    free_unused()
    flags = driver.CU_MEMHOSTALLOC_PORTABLE | driver.CU_MEMHOSTALLOC_DEVICEMAP
    address = _address(driver.cuMemHostAlloc(max(nbytes, 1), flags))
    raw = (ctypes.c_uint8 * max(nbytes, 1)).from_address(address)
    weakref.finalize(raw, _unused.append, address).atexit = False
    array = np.ctypeslib.as_array(raw)
    array[:] = 0
    return array


def copy_up(to: int, host: int, nbytes: int, stream: Any) -> None:
    """Page-locked host memory → device, in the stream's order."""
    from cuda.bindings import driver

    check(driver.cuMemcpyHtoDAsync(to, host, nbytes, stream.handle))


def copy_down(host: int, source: int, nbytes: int, stream: Any) -> None:
    """Device → page-locked host memory, in the stream's order."""
    from cuda.bindings import driver

    check(driver.cuMemcpyDtoHAsync(host, source, nbytes, stream.handle))


def copy_across(to: int, source: int, nbytes: int, stream: Any) -> None:
    """Device → device, the same or another, in the stream's order."""
    from cuda.bindings import driver

    check(driver.cuMemcpyAsync(to, source, nbytes, stream.handle))
