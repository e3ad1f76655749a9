"""Input and output types of a forward, which an engine and its callers share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError

Logits = NDArray[np.float32]
Tokens = NDArray[np.int32]
Integers = NDArray[np.integer[Any]]


class Rows(NamedTuple):
    """What one forward computes: an entry for each row, in arrays of one length."""

    sequence: NDArray[np.int32]  # the slot of the sequence that the row continues
    position: NDArray[np.int32]  # of its token in that sequence
    token: NDArray[np.int32]
    wants_logits: NDArray[np.bool_]


class Runs(NamedTuple):
    """The sequences of rows, in the order of the rows: arrays with an entry for each."""

    slots: Integers
    first: Integers  # position of its first row
    end: Integers  # behind that of its last row
    counts: Integers  # rows


class Aborted(Exception):
    """A run ended early because `abort` was called; of the sequences in it there is what was there before it."""


def checked(tokens: Sequence[int] | NDArray[Any], n_vocab: int) -> Tokens:
    """Tokens as int32. OptionError if there are none, and for an id outside the vocabulary."""
    if (
        len(tokens) == 1 and 0 <= (token := int(tokens[0])) < n_vocab
    ):  # each step of a generation: a few calls only
        return np.array((token,), np.int32)
    ids = np.asarray(tokens, np.int64).reshape(-1)
    if not len(ids):
        raise OptionError("no tokens to evaluate")
    if np.maximum.reduce(ids.view(np.uint64)) >= n_vocab:  # what is below 0 is then above all
        bad = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise OptionError(f"token {bad} is outside the vocabulary of {n_vocab}")
    return ids.astype(np.int32)


def joined(rows: Sequence[Rows]) -> Rows:
    """Rows of several sequences, one behind the other."""
    return Rows(*map(np.concatenate, zip(*rows, strict=True)))


def part(rows: Rows, which: "slice | NDArray[np.intp]") -> Rows:
    """Some of the rows."""
    return Rows(rows.sequence[which], rows.position[which], rows.token[which], rows.wants_logits[which])


def in_order(rows: Rows, most: int, n_ctx: int, n_slots: int) -> tuple[NDArray[np.intp] | None, Rows, Runs]:
    """(the order, rows in it, their sequences): rows of one sequence follow each other. The order is None for as given.

    OptionError if there are none or more than `most`, and for slots and positions that there are not.
    """
    n, slots = len(rows.token), rows.sequence
    if not 0 < n <= most:
        raise OptionError(f"a forward computes 1 to {most} rows, {n} are given")
    if n == 1:
        return None, rows, _one(rows, n_ctx, n_slots)
    order = None
    if (slots[1:] < slots[:-1]).any():
        order = np.argsort(slots, kind="stable")
        rows = part(rows, order)
    runs = _runs(rows)
    _check_slots(runs.slots.item(0), runs.slots.item(-1), n_slots)
    _check_positions(rows, runs, n_ctx)
    return order, rows, runs


def _one(rows: Rows, n_ctx: int, n_slots: int) -> Runs:
    """The sequence of a single row, as in each step of a generation: a few calls only."""
    slot, first = rows.sequence.item(), rows.position.item()
    if not 0 <= slot < n_slots:
        _check_slots(slot, slot, n_slots)
    if not 0 <= first < n_ctx:
        raise _not_consecutive(first, first, 1, n_ctx)
    return Runs(rows.sequence, rows.position, rows.position + 1, _ONE)


def _runs(rows: Rows) -> Runs:
    slots = rows.sequence
    begins = np.concatenate(([0], np.flatnonzero(slots[1:] != slots[:-1]) + 1))
    counts = np.diff(begins, append=len(slots))
    position = rows.position.astype(np.intp)
    return Runs(slots[begins].astype(np.intp), position[begins], position[begins + counts - 1] + 1, counts)


_ONE = np.ones(1, np.intp)


def _check_slots(lowest: int, highest: int, n_slots: int) -> None:
    if lowest < 0 or highest >= n_slots:
        bad = lowest if lowest < 0 else highest
        raise OptionError(f"sequence {bad} is given; there are {n_slots}, counted from 0")


def _not_consecutive(first: int, last: int, n: int, n_ctx: int) -> OptionError:
    return OptionError(f"positions {first} to {last} are not {n} consecutive ones below {n_ctx}")


def _check_positions(rows: Rows, runs: Runs, n_ctx: int) -> None:
    if ((runs.first >= 0) & (runs.end <= n_ctx) & (runs.end - runs.first == runs.counts)).all():
        steps = rows.position[1:] - rows.position[:-1]
        if ((steps == 1) | (rows.sequence[1:] != rows.sequence[:-1])).all():
            return
    i = int((runs.end - runs.first != runs.counts).argmax())
    raise _not_consecutive(runs.first[i], runs.end[i] - 1, runs.counts[i], n_ctx)
