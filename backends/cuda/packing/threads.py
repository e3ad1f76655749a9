"""The threads that pack, and weights packed straight into memory."""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.packing.ahead import read_ahead
from graphsched.backends.cuda.packing.pieces import Packing, Piece, packing
from graphsched.errors import ShapeError
from graphsched.graph.tensor import TensorType
from graphsched.run.affinity import usable_cpus

Raw = NDArray[np.uint8]
MOST_THREADS = 12  # together they outrun every disk
PIECE = 2 << 20  # bytes that a thread packs at once
AHEAD = 16  # pieces that wait for a thread, and are read meanwhile


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


def start(how: Packing, piece: Piece, raw: Raw, out: Raw, staged: bool) -> "Future[None]":
    """Packs a piece in a thread; `out`: the whole packed weight or, if `staged`, what becomes of the piece."""
    read_ahead(raw.ctypes.data + piece.source, min(piece.left, piece.units * how.unit))
    return workers().submit(_write, how, piece, raw, out, staged)


def _write(how: Packing, piece: Piece, raw: Raw, out: Raw, staged: bool) -> None:
    """Holds both arrays until it is done, whatever becomes of those who wanted it."""
    to = out.ctypes.data
    how.write(piece, raw.ctypes.data, [to + (run.staged if staged else run.at) for run in piece.runs])


def pack(how: Packing, raw: Raw, out: Raw) -> None:
    """All of a weight's file bytes `raw` → `out`, of `how.nbytes`."""
    checked(how, raw)
    how.compile()
    under_way = deque["Future[None]"]()
    for piece in how.pieces(PIECE):
        under_way.append(start(how, piece, raw, out, staged=False))
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
