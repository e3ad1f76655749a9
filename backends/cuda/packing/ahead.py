"""Reading a mapped file ahead of those that pack it."""

import ctypes
import mmap
from collections.abc import Callable
from functools import cache

STEP = 256 << 10  # bytes: systems read no more than a window for one piece of advice
PAGE = mmap.PAGESIZE


def read_ahead(address: int, nbytes: int) -> None:
    """Asks the system to have these bytes in memory soon. Does nothing where they are no file's, or it cannot."""
    first, end = address // PAGE * PAGE, address + nbytes
    for at in range(first, end, STEP):
        _advise()(at, min(STEP, end - at), mmap.MADV_WILLNEED)


@cache
def _advise() -> Callable[[int, int, int], int]:
    if not hasattr(mmap, "MADV_WILLNEED"):
        return lambda address, nbytes, advice: 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return advise
