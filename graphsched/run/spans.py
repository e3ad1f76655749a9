"""Spans of time [begin, end): union, intersection, length."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]
Spans = NDArray[Any]  # [n, 2], int64 nanoseconds of a trace or float64 seconds of the virtual clock
EMPTY: Final[Spans] = np.empty((0, 2), np.int64)


def union(spans: Sequence[tuple[float, float]] | Spans) -> Spans:
    """The same instants as spans apart from each other, in order."""
    a = np.asarray(spans).reshape(-1, 2)
    a = a[a[:, 1] > a[:, 0]]
    if not len(a):
        return EMPTY
    a = a[np.argsort(a[:, 0], kind="stable")]
    ends = np.maximum.accumulate(a[:, 1])
    first = np.concatenate(([True], a[1:, 0] > ends[:-1]))
    last = np.concatenate((first[1:], [True]))
    return np.stack((a[first, 0], ends[last]), axis=1)


def clip(spans: Spans, wall: Sequence[Span]) -> Spans:
    """The spans cut to those of the wall time."""
    cut = [np.stack((np.maximum(spans[:, 0], a), np.minimum(spans[:, 1], b)), axis=1) for a, b in wall]
    return union(np.concatenate(cut)) if cut else EMPTY


def length(spans: Spans) -> Any:
    """The sum of their lengths, in their unit."""
    return (spans[:, 1] - spans[:, 0]).sum().item()
