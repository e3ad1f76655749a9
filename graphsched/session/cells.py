"""Blocks of KV-cache cells: which sequences have which.

A sequence has a slot, and for each kind of cells a table: entry i names the block of its positions from i · CELL_BLOCK
on. Sequences with a common beginning have the same blocks there; one that writes into such a block gets a copy first.
"""

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import ContextError
from graphsched.graph.tensor import Tensor
from graphsched.session.rows import Integers, Runs
from graphsched.types.extents import CELL_BLOCK

Ints = NDArray[np.int32]


class Blocks:
    """The pool of one kind of cells, and every slot's table. `tables` i32[n_slots, entries], in use are first to end.

    Of a kind with a window (or chunk) a table keeps its last `kept` entries, the others are given back.
    """

    def __init__(self, leaf: Tensor, n_blocks: int, n_slots: int, n_entries: int) -> None:
        self.window, self.chunk = leaf.attrs.get("window", 0), leaf.attrs.get("chunk", 0)
        self.kept = n_blocks // n_slots if self.window or self.chunk else n_entries
        self.tables = np.zeros((n_slots, n_entries), np.int32)
        self.first, self.end = np.zeros(n_slots, np.intp), np.zeros(n_slots, np.intp)
        self.users = np.zeros(n_blocks, np.int32)  # tables that name the block
        self._free = np.arange(n_blocks, dtype=np.int32)[::-1].copy()
        self.n_free = n_blocks
        self.changes = 0  # of tables so far
        self._ready: dict[int, tuple[int, int]] = {}  # positions whose cells are known to be a slot's own

    def __len__(self) -> int:
        return len(self.users)

    def needed(self, n: int) -> int:
        """Blocks of a sequence of n tokens."""
        return min(-(-n // CELL_BLOCK), self.kept, self.tables.shape[1])

    def is_ready(self, runs: Runs) -> bool:
        """Whether sequences have blocks of their own for all their rows, so that nothing is to be taken."""
        if (
            len(runs.slots) == 1
        ):  # the usual case, in a few calls; what is not known yet can `grow` by nothing
            first, last = self._ready.get(runs.slots.item(), (0, 0))
            return first <= runs.first.item() and runs.end.item() <= last
        fits = bool((runs.end <= self.end[runs.slots] * CELL_BLOCK).all())
        return fits and not bool(self.shared(runs).any())

    def can_grow(self, runs: Runs) -> bool:
        """Whether a single sequence gets its cells by taking free blocks, with nothing to copy or to give back."""
        if len(runs.slots) > 1:
            return False
        slot, entry = runs.slots.item(), runs.first.item() // CELL_BLOCK
        first, there = self.first.item(slot), self.end.item(slot)
        end = max(-(-runs.end.item() // CELL_BLOCK), there)
        if end - there > self.n_free or end - first > self.kept:
            return False
        return entry >= there or self.users.item(self.tables.item(slot, entry)) == 1

    def grow(self, runs: Runs) -> None:
        """Gives a sequence that `can_grow` its cells: as `take`, in a few calls."""
        slot, first, there = runs.slots.item(), runs.first.item(), self.end.item(runs.slots.item())
        end = max(-(-runs.end.item() // CELL_BLOCK), there)
        rest = self.n_free - (end - there)
        blocks = self._free[rest : self.n_free][::-1]
        self.users[blocks] = 1
        self.tables[slot, there:end] = blocks
        self.end[slot], self.n_free = end, rest
        self._ready[slot] = first, end * CELL_BLOCK
        self.changes += 1

    def lacking(self, runs: Runs) -> int:
        """Blocks that runs take, less those that they give back."""
        return int((self._missing(runs) - (self._new_first(runs) - self.first[runs.slots])).sum())

    def _missing(self, runs: Runs) -> Integers:
        return np.maximum(-(-runs.end // CELL_BLOCK) - self.end[runs.slots], 0)

    def _new_first(self, runs: Runs) -> Integers:
        ends = self.end[runs.slots] + self._missing(runs)
        return np.clip(ends - self.kept, self.first[runs.slots], self.end[runs.slots])

    def take(self, runs: Runs) -> None:
        """Gives each sequence blocks for its rows; a window's oldest ones are given back first."""
        slots, missing, new_first = runs.slots, self._missing(runs), self._new_first(runs)
        self._release(slots, self.first[slots], new_first)
        self.first[slots] = new_first
        total = int(missing.sum())
        blocks = self._free[self.n_free - total : self.n_free][::-1]
        self.n_free -= total
        self.users[blocks] = 1
        self.tables[spread(slots, self.end[slots], missing)] = blocks
        self.end[slots] += missing
        ends = (self.end[slots] * CELL_BLOCK).tolist()
        self._ready |= zip(slots.tolist(), zip(runs.first.tolist(), ends, strict=True), strict=True)
        self.changes += 1

    def shared(self, runs: Runs) -> NDArray[np.bool_]:
        """Of which sequences the block that the first row goes to is another one's, too."""
        there, blocks = self._written(runs)
        return there & (self.users[blocks] > 1)

    def _written(self, runs: Runs) -> tuple[NDArray[np.bool_], Ints]:
        """Whether the first row of each sequence goes to a block that it has, and which that is."""
        entries = np.minimum(runs.first // CELL_BLOCK, self.tables.shape[1] - 1)
        return entries < self.end[runs.slots], self.tables[runs.slots, entries]

    def copies(self, runs: Runs) -> int:
        """Blocks that copies of shared ones take: the last of a block's users keeps it."""
        there, blocks = self._written(runs)
        written, writers = np.unique(blocks[there], return_counts=True)
        return int(np.minimum(writers, self.users[written] - 1).sum())

    def own_copy(self, slot: int, position: int) -> tuple[int, int] | None:
        """Gives a sequence a block of its own in place of a shared one: (that one, the new one); None if it has one."""
        entry = position // CELL_BLOCK
        old = int(self.tables[slot, entry])
        if self.users[old] == 1:
            return None
        self.n_free -= 1
        new = int(self._free[self.n_free])
        self.users[old] -= 1
        self.users[new], self.tables[slot, entry] = 1, new
        self.changes += 1
        return old, new

    def take_back(self, slot: int, position: int, old: int, new: int) -> None:
        """Undoes `own_copy`."""
        self.tables[slot, position // CELL_BLOCK] = old
        self.users[old] += 1
        self.users[new] = 0
        self._free[self.n_free] = new
        self.n_free += 1
        self.changes += 1

    def place(self, slot: int, first: int, end: int) -> Ints:
        """Gives an empty slot blocks for its entries from first to end, of which there must be enough; these."""
        n = end - first
        blocks = self._free[self.n_free - n : self.n_free][::-1].copy()
        self.n_free -= n
        self.users[blocks] = 1
        self.tables[slot, first:end] = blocks
        self.first[slot], self.end[slot] = first, end
        self._ready.pop(slot, None)
        self.changes += 1
        return blocks

    def share(self, source: int, slot: int) -> None:
        """Gives an empty slot all blocks of another one."""
        self.tables[slot], self.first[slot], self.end[slot] = (
            self.tables[source], self.first[source], self.end[source],
        )  # fmt: skip
        self.users[self.tables[slot, self.first[slot] : self.end[slot]]] += 1
        self._ready.pop(source, None)
        self.changes += 1

    def cut(self, slot: int, n_past: int) -> None:
        """Gives back the blocks behind the first n_past positions."""
        end = -(-n_past // CELL_BLOCK)
        self._ready.pop(slot, None)
        if end < self.end[slot]:
            first = self.first[slot]
            at = np.array([slot])
            self._release(at, np.maximum(first, end)[None], self.end[at])
            self.first[slot], self.end[slot] = min(first, end), end
            self.changes += 1

    def _release(self, slots: Integers, first: Integers, end: Integers) -> None:
        blocks = self.tables[spread(slots, first, end - first)]
        np.subtract.at(self.users, blocks, 1)
        freed = np.unique(blocks[self.users[blocks] == 0])
        self._free[self.n_free : self.n_free + len(freed)] = freed[::-1]
        self.n_free += len(freed)

    def holds(self, slot: int, n_past: int) -> bool:
        """Whether the cells hold every position that a token at n_past attends to."""
        oldest = oldest_seen(n_past, self.window, self.chunk)
        return bool(oldest >= self.first[slot] * CELL_BLOCK or n_past == 0)


def oldest_seen(n_past: int, window: int, chunk: int) -> int:
    """The first position that a token at n_past attends to."""
    oldest = n_past - window + 1 if window else 0
    return max(oldest, n_past // chunk * chunk if chunk else 0, 0)


def spread(rows: Integers, first: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """Indices of elements of a table: of each row `counts` from `first` on."""
    before = np.cumsum(counts) - counts
    return np.repeat(rows, counts), np.repeat(first - before, counts) + np.arange(int(counts.sum()))


def check_room(pools: list[Blocks], runs: Runs) -> None:
    """ContextError if a pool has too few free blocks for runs and the copies of shared blocks; nothing is taken."""
    for pool in pools:
        lacking = pool.lacking(runs) + pool.copies(runs)
        if lacking > pool.n_free:
            cells, free = lacking * CELL_BLOCK, pool.n_free * CELL_BLOCK
            raise ContextError(
                f"{cells} more cells are needed, {free} of {len(pool) * CELL_BLOCK} are free; more are -c N"
            )
