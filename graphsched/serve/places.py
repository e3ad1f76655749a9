"""Which slot a task gets, so that nothing is read twice; what a slot loses by that is kept in memory."""

from dataclasses import dataclass

from graphsched.serve.job import Task
from graphsched.serve.kept import Kept
from graphsched.serve.options import ServiceOptions
from graphsched.serve.prefixes import FEWEST, longest
from graphsched.serve.slot import Slot
from graphsched.session.engine import Engine
from graphsched.session.rows import Tokens
from graphsched.session.saved import Saved


@dataclass(frozen=True)
class _Source:
    """What has the most of a task's tokens: n of them, in a slot or in memory."""

    n: int
    slot: Slot | None = None
    saved: Saved | None = None


class Places:
    """The slots of an engine, and the sequences that are kept for them."""

    def __init__(self, engine: Engine, slots: list[Slot], options: ServiceOptions) -> None:
        self._engine, self._slots, self._options = engine, slots, options
        self.kept = Kept(options.cache_bytes)

    def slot_for(self, task: Task, free: list[Slot]) -> Slot:
        """The free slot that a task gets: its sequence has the part of the tokens that need not be read.

        It goes on in the slot that has the longest part of its tokens if that loses no more than half by it. Else the
        slot that was idle for longest gets a copy of that part, which costs no cells.
        """
        asked, source = task.job.request.slot, self._source(task)
        if source.slot in free and asked in (None, source.slot.id) and self._stays(source, task.tokens):
            source.slot.sequence.back_to(source.n)
            return source.slot
        others = [slot for slot in free if slot is not source.slot] or free
        target = self._slots[asked] if asked is not None else min(others, key=idlest)
        if target is source.slot:
            self._keep(target)
            target.sequence.back_to(source.n)
            return target
        self.clear(target)
        if source.n >= FEWEST:
            self._copy(source, target)
        return target

    def clear(self, slot: Slot) -> None:
        """Empties a slot; what it has read is kept if there is room."""
        self._keep(slot)
        slot.renew()

    def restore(self, slot: Slot, saved: Saved) -> None:
        """Makes an idle slot hold what was saved. ContextError if there are too few free cells; idle ones give way."""
        self.clear(slot)
        for other in sorted((s for s in self._slots if s.task is None), key=idlest):
            if self._engine.slots.has_free(saved.cells):
                break
            self.clear(other)
        slot.sequence.restore(saved)

    def _source(self, task: Task) -> _Source:
        if not task.job.request.keeps:
            return _Source(0)
        there = [(slot.id, slot.sequence) for slot in self._slots if slot.sequence.n_past]
        n, number = longest(there, task.tokens)
        n_kept, saved = self.kept.longest(task.tokens)
        if n_kept > n:
            return _Source(n_kept, saved=saved)
        return _Source(n, self._slots[number] if n else None)

    def _stays(self, source: _Source, tokens: Tokens) -> bool:
        """Whether a sequence goes on where it is: the rest of it is worth less than what it has in common."""
        assert source.slot is not None
        is_similar = source.n >= self._options.slot_prompt_similarity * len(tokens)
        return is_similar and 2 * source.n >= source.slot.sequence.n_past

    def _copy(self, source: _Source, target: Slot) -> None:
        """Gives an empty slot the tokens of a source, if there are cells for them."""
        if source.slot is not None:
            target.sequence.close()
            target.sequence = source.slot.sequence.fork(source.n, target.id)
        elif source.saved is not None and self._engine.slots.has_free(source.saved.cells):
            target.sequence.restore(source.saved)
            target.sequence.back_to(source.n)
            if 2 * source.n >= len(source.saved.tokens):
                self.kept.drop(source.saved)

    def _keep(self, slot: Slot) -> None:
        if slot.sequence.n_past >= FEWEST:
            self.kept.keep(slot.sequence, (s.sequence for s in self._slots if s is not slot))


def idlest(slot: Slot) -> tuple[bool, int]:
    """The order in which slots are given away: empty ones first, then those unused for longest."""
    return slot.sequence.n_past > 0, slot.used
