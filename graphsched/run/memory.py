"""Memory planning: lifetimes to offsets in one arena, best fit, with in-place reuse."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A buffer alive from step `first` to step `last`; it may take over one of `reuse` that dies at `first`."""

    key: Hashable
    nbytes: int
    first: int
    last: int
    reuse: tuple[Hashable, ...] = ()


@dataclass(frozen=True)
class Arena:
    offsets: Mapping[Hashable, int]
    nbytes: int
    peak: Hashable  # the buffer whose allocation set the size


def plan(lifetimes: Iterable[Lifetime]) -> Arena:
    """Offsets such that no two buffers alive at the same step overlap."""
    order = sorted(lifetimes, key=lambda b: (b.first, -b.nbytes))
    by_key = {b.key: b for b in order}
    free = _FreeList()
    offsets: dict[Hashable, int] = {}
    owners: dict[Hashable, Lifetime] = {}  # buffers that hold memory now
    for b in order:
        donor = next((by_key[k] for k in b.reuse if _can_take_over(by_key.get(k), b) and k in owners), None)
        for key, old in list(owners.items()):
            if old.last < b.first and old is not donor:
                free.give(offsets[key], _round(old.nbytes))
                del owners[key]
        if donor is not None:
            del owners[donor.key]
            offsets[b.key] = offsets[donor.key]
        else:
            offsets[b.key] = free.take(_round(b.nbytes), b.key)
        owners[b.key] = b
    return Arena(offsets, free.end, free.peak)


def _can_take_over(donor: Lifetime | None, b: Lifetime) -> bool:
    """Only all of it: step b.first still reads the donor, so that no other buffer of that step may get a rest."""
    return donor is not None and donor.last == b.first and _round(donor.nbytes) == _round(b.nbytes)


def _round(n: int) -> int:
    return -(-max(n, 1) // ALIGNMENT) * ALIGNMENT


class _FreeList:
    """Free blocks below `end`, merged with their neighbours."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, int]] = []  # (offset, size), by offset
        self.end = 0
        self.peak: Hashable = None

    def take(self, size: int, key: Hashable) -> int:
        fitting = [(s, o) for o, s in self.blocks if s >= size]
        if fitting:
            s, o = min(fitting)
            self.blocks.remove((o, s))
            self.give(o + size, s - size)
            return o
        start = self.end
        if self.blocks and sum(self.blocks[-1]) == self.end:  # grow the open end
            start = self.blocks.pop()[0]
        self.end, self.peak = start + size, key
        return start

    def give(self, offset: int, size: int) -> None:
        if size <= 0:
            return
        merged: list[tuple[int, int]] = []
        for o, s in sorted([*self.blocks, (offset, size)]):
            if merged and sum(merged[-1]) == o:
                merged[-1] = (merged[-1][0], merged[-1][1] + s)
            else:
                merged.append((o, s))
        self.blocks = merged
