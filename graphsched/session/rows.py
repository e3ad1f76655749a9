"""Input and output types of a forward, which an engine and its callers share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsched.errors import OptionError

Logits = NDArray[np.float32]
Tokens = NDArray[np.int32]


class Rows(NamedTuple):
    """What one forward computes: an entry for each row, in arrays of one length."""

    sequence: NDArray[np.int32]  # the slot of the sequence that the row continues
    position: NDArray[np.int32]  # of its token in that sequence
    token: NDArray[np.int32]
    wants_logits: NDArray[np.bool_]


class Runs(NamedTuple):
    """The sequences of rows, in the order of the rows: arrays with an entry for each."""

    slots: NDArray[np.intp]
    first: NDArray[np.intp]  # position of its first row
    end: NDArray[np.intp]  # behind that of its last row
    counts: NDArray[np.intp]  # rows


class Aborted(Exception):
    """A run ended early because `abort` was called; of the sequences in it there is what was there before it."""


def checked(tokens: Sequence[int] | NDArray[Any], n_vocab: int) -> Tokens:
    """Tokens as int32. OptionError if there are none, and for an id outside the vocabulary."""
    ids = np.asarray(tokens, np.int64).reshape(-1)
    if not len(ids):
        raise OptionError("no tokens to evaluate")
    if ids.view(np.uint64).max() >= n_vocab:  # what is below 0 is then above all
        bad = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise OptionError(f"token {bad} is outside the vocabulary of {n_vocab}")
    return ids.astype(np.int32)


def joined(rows: Sequence[Rows]) -> Rows:
    """Rows of several sequences, one behind the other."""
    return Rows(*map(np.concatenate, zip(*rows, strict=True)))


def part(rows: Rows, which: "slice | NDArray[np.intp]") -> Rows:
    """Some of the rows."""
    return Rows(*(column[which] for column in rows))


def in_order(
    rows: Rows, most: int, n_ctx: int, n_slots: int
) -> tuple[NDArray[np.intp] | None, Rows, Runs]:
    """(the order, rows in it, their sequences): rows of one sequence follow each other. The order is None for as given.

    OptionError if there are none or more than `most`, and for slots and positions that there are not.
    """
    n, slots = len(rows.token), rows.sequence
    if not 0 < n <= most:
        raise OptionError(f"a forward computes 1 to {most} rows, {n} are given")
    order = None
    if n > 1 and (slots[1:] < slots[:-1]).any():
        order = np.argsort(slots, kind="stable")
        rows = part(rows, order)
    runs = _runs(rows)
    if runs.slots[0] < 0 or runs.slots[-1] >= n_slots:
        bad = runs.slots[0] if runs.slots[0] < 0 else runs.slots[-1]
        raise OptionError(f"sequence {bad} is given; there are {n_slots}, counted from 0")
    _check_positions(rows, runs, n_ctx)
    return order, rows, runs


def _runs(rows: Rows) -> Runs:
    slots, n = rows.sequence, len(rows.token)
    begins = np.concatenate(([0], np.flatnonzero(slots[1:] != slots[:-1]) + 1)) if n > 1 else _ZERO
    counts = np.diff(begins, append=n) if n > 1 else _ONE
    position = rows.position.astype(np.intp)
    return Runs(slots[begins].astype(np.intp), position[begins], position[begins + counts - 1] + 1, counts)


_ZERO, _ONE = np.zeros(1, np.intp), np.ones(1, np.intp)


def _check_positions(rows: Rows, runs: Runs, n_ctx: int) -> None:
    if ((runs.first >= 0) & (runs.end <= n_ctx) & (runs.end - runs.first == runs.counts)).all():
        steps = rows.position[1:] - rows.position[:-1]
        if len(steps) == 0 or ((steps == 1) | (rows.sequence[1:] != rows.sequence[:-1])).all():
            return
    i = int((runs.end - runs.first != runs.counts).argmax())
    first, last, n = runs.first[i], runs.end[i] - 1, runs.counts[i]
    raise OptionError(f"positions {first} to {last} are not {n} consecutive ones below {n_ctx}")
