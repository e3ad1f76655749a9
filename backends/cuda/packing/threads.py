"""The threads that pack, and weights packed straight into memory."""

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray

from graphsched.affinity import usable_cpus
from graphsched.backends.cuda.packing.parts import Packing, Part, packing
from graphsched.errors import ShapeError
from graphsched.tensor import TensorType

Raw = NDArray[np.uint8]
MOST_THREADS = 12  # together they outrun every disk
PART = 1 << 20  # bytes that a thread packs at once


def count() -> int:
    return min(len(usable_cpus()), MOST_THREADS)


@cache
def workers() -> ThreadPoolExecutor:
    """For all devices, as long as the process; they sleep while nothing is loaded."""
    return ThreadPoolExecutor(count(), "graphsched-pack")


def start(how: Packing, part: Part, raw: Raw, to: int, staged: bool) -> "Future[None]":
    """Packs a part in a thread; `to`: where the packed weight starts or, if `staged`, where the part does."""
    addresses = [to + (run.staged if staged else run.at) for run in part.runs]
    return workers().submit(_write, how, part, raw, addresses)


def _write(how: Packing, part: Part, raw: Raw, to: list[int]) -> None:
    how.write(part, raw.ctypes.data, to)  # who holds the array keeps the address


def pack(how: Packing, raw: Raw, out: Raw) -> None:
    """All of a weight's file bytes `raw` → `out`, of `how.nbytes`."""
    checked(how, raw)
    how.compile()
    to = out.ctypes.data
    for done in [start(how, part, raw, to, staged=False) for part in how.parts(PART)]:
        done.result()


def packed(raw: Raw, type: TensorType) -> Raw:
    """The same, into new memory."""
    how = packing(type)
    out = np.empty(how.nbytes, np.uint8)
    pack(how, raw, out)
    return out


def checked(how: Packing, raw: Raw) -> None:
    """ShapeError if `raw` has another size: compiled code does not look."""
    if raw.size != how.matrices * how.file_bytes:
        raise ShapeError(f"upload: {raw.size} bytes are not {how.matrices * how.file_bytes}")
