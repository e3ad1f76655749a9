"""What the next step reads of each slot."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from graphsched.serve.shares import most_rows, shares
from graphsched.serve.slot import Slot
from graphsched.session.rows import Tokens


class Piece(NamedTuple):
    """Tokens that a slot reads in a step; results are wanted of the last n_wanted."""

    slot: Slot
    ids: Tokens
    n_wanted: int


def pieces(slots: Sequence[Slot], n_ubatch: int, every: int) -> Iterator[Piece]:
    """A token of each slot that generates, and pieces of prompts in the order in which they got their slots.

    No piece goes beyond a position at which a checkpoint is due: those that are multiples of `every`, unless it is 0,
    and the marks of its task.
    """
    at_work = [slot for slot in slots if slot.is_at_work]
    reading = sorted((slot for slot in at_work if slot.is_reading), key=lambda slot: slot.since)
    generating = [slot for slot in at_work if not slot.is_reading]
    lengths = [len(slot.pending) for slot in reading]
    room = most_rows(n_ubatch, len(generating), lengths) - len(generating)
    for slot in generating:
        yield Piece(slot, slot.pending, 1)
    for slot, share in zip(reading, shares(lengths, room), strict=True):
        if n := _until_mark(slot, share, every):
            yield Piece(slot, slot.pending[:n], slot.wanted(n))


def _until_mark(slot: Slot, n: int, every: int) -> int:
    assert slot.task is not None
    past = slot.sequence.n_past
    ends = [mark - past for mark in slot.task.marks if mark > past]
    return min([n, *ends, *([every - past % every] if every else [])])
