"""What a kernel reads from its step record and the run block, and how it takes its share of the work."""

from graphsched.backends.cpu.language.atomics import fetch_add, write_word
from graphsched.backends.cpu.language.jit import helper
from graphsched.backends.cpu.language.simd import real, word
from graphsched.backends.cpu.program.layout import (
    STEP_ARGS,
    STEP_ROWS_TIMES,
    STEP_ROWS_WORD,
    STEP_TURN_STRIDE,
    STEP_TURNS,
)


@helper
def arg(step: int, i: int) -> int:
    """The i-th argument: an address or an integer."""
    return word(step, STEP_ARGS + i)


@helper
def real_arg(step: int, i: int) -> float:
    """The i-th argument as float32."""
    return real(step, STEP_ARGS + i)


@helper
def rows(step: int, run: int) -> int:
    """How many rows this run has: a run-block length times a constant of the step."""
    return word(run, word(step, STEP_ROWS_WORD)) * word(step, STEP_ROWS_TIMES)


@helper
def share(n: int, ith: int, nth: int) -> tuple[int, int]:
    """This thread's part [first, last) of n equal units."""
    return n * ith // nth, n * (ith + 1) // nth


@helper
def deal(step: int, ith: int, nth: int, n: int, least: int) -> tuple[int, int]:
    """The next run [first, last) of n units for this thread, an empty one when none are left.

    A thread takes half of what is left of its own part at each turn, down to `least` units, and then helps the others
    in the same way: threads that are slower, or that lost their core for a while, do not hold the rest up.
    """
    turns = word(step, STEP_TURNS)
    if nth == 1:
        is_first = word(turns, 0) == 0
        write_word(turns, 1)
        return (0, n) if is_first else (n, n)
    for behind in range(nth):
        owner = ith + behind if ith + behind < nth else ith + behind - nth
        first, last = share(n, owner, nth)
        turn = fetch_add(turns + owner * word(step, STEP_TURN_STRIDE), 1)
        if turn > 62:  # of many threads that found nothing here; no shift is as long
            continue
        left, before = (last - first) >> turn, (last - first) >> (turn - 1 if turn else 0)
        if left and (turn == 0 or before > least):
            return last - left, last - (left >> 1 if left > least else 0)
    return n, n


@helper
def onward(step: int, ith: int, nth: int, n: int, unit: int, last: int) -> tuple[int, int]:
    """(next unit, end of its run), one of n, after `unit` of a run up to `last`; both n when none are left."""
    return (unit + 1, last) if unit + 1 < last else deal(step, ith, nth, n, 1)


@helper
def next_unit(step: int) -> int:
    """The next unit of a step whose units differ in size, whichever thread asks."""
    return fetch_add(word(step, STEP_TURNS), 1)
