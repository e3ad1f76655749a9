"""The threads that pack, and weights packed straight into memory."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.packing.ahead import read_ahead
from graphsched.backends.cuda.packing.parts import Packing, Part, packing
from graphsched.errors import ShapeError
from graphsched.graph.tensor import TensorType
from graphsched.run.affinity import usable_cpus

Raw = NDArray[np.uint8]
MOST_THREADS = 12  # together they outrun every disk
PART = 2 << 20  # bytes that a thread packs at once
AHEAD = 16  # parts that wait for a thread, and are read meanwhile


def count() -> int:
    """Threads that pack: the CPUs that we may use, at most MOST_THREADS."""
    return min(len(usable_cpus()), MOST_THREADS)


@cache
def workers() -> ThreadPoolExecutor:
    """For all devices, as long as the process; they sleep while nothing is loaded."""
    n = count()
    pool, all_here = ThreadPoolExecutor(n, "graphsched-pack"), Barrier(n)
    for started in [pool.submit(all_here.wait) for _ in range(n)]:
        started.result()  # as many from the first load on
    return pool


def start(how: Packing, part: Part, raw: Raw, out: Raw, staged: bool) -> "Future[None]":
    """Packs a part in a thread; `out`: the whole packed weight or, if `staged`, what becomes of the part."""
    read_ahead(raw.ctypes.data + part.source, min(part.left, part.units * how.unit))
    return workers().submit(_write, how, part, raw, out, staged)


def _write(how: Packing, part: Part, raw: Raw, out: Raw, staged: bool) -> None:
    """Holds both arrays until it is done, whatever becomes of those who wanted it."""
    to = out.ctypes.data
    how.write(part, raw.ctypes.data, [to + (run.staged if staged else run.at) for run in part.runs])


def pack(how: Packing, raw: Raw, out: Raw) -> None:
    """All of a weight's file bytes `raw` → `out`, of `how.nbytes`."""
    checked(how, raw)
    how.compile()
    under_way = deque["Future[None]"]()
    for part in how.parts(PART):
        under_way.append(start(how, part, raw, out, staged=False))
        if len(under_way) > AHEAD:
            under_way.popleft().result()
    for future in under_way:
        future.result()


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
