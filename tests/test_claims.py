"""Units dealt by claims: every unit once, whoever asks; threads that are done help the others."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphsched.backends.cpu.program.kernel_args import deal, next_unit
from graphsched.backends.cpu.program.layout import STEP_CLAIM_STRIDE, STEP_CLAIMS, step_words


class Record:
    """A step's record with counters for so many threads."""

    def __init__(self, n_threads: int) -> None:
        self.counters = np.zeros((n_threads, 8), np.int64)
        self.words = np.zeros(step_words(0), np.int64)
        self.words[STEP_CLAIMS] = self.counters.ctypes.data
        self.words[STEP_CLAIM_STRIDE] = self.counters.strides[0]
        self.address = self.words.ctypes.data


def drained(record: Record, order: list[int], nth: int, n: int, least: int) -> list[tuple[int, range]]:
    """(thread, run) in the order in which threads ask, then everything that thread 0 and the others find left."""
    taken = []
    for ith in [*order, *(t for t in range(nth) for _ in range(8 * 64 * nth))]:
        first, last = deal(record.address, ith, nth, n, least)
        if first < last:
            taken.append((ith, range(first, last)))
    return taken


@settings(deadline=None)  # the first example compiles
@given(st.integers(1, 7), st.integers(0, 3000), st.integers(1, 40), st.lists(st.integers(0, 6), max_size=60))
def test_every_unit_is_dealt_once(nth: int, n: int, least: int, order: list[int]) -> None:
    taken = drained(Record(nth), [t % nth for t in order], nth, n, least)
    assert sorted(u for _, run in taken for u in run) == list(range(n))


def test_runs_shrink_to_the_least_and_stay_in_the_threads_own_part() -> None:
    record = Record(2)
    own = [deal(record.address, 1, 2, 200, 10) for _ in range(5)]
    assert own == [(100, 150), (150, 175), (175, 188), (188, 194), (194, 200)]


def test_a_thread_that_is_done_takes_what_another_has_not_begun() -> None:
    record = Record(2)
    assert deal(record.address, 0, 2, 64, 4) == (0, 16)
    helper = [deal(record.address, 1, 2, 64, 4) for _ in range(7)]
    assert helper == [(32, 48), (48, 56), (56, 60), (60, 64), (16, 24), (24, 28), (28, 32)]
    assert deal(record.address, 0, 2, 64, 4) == (64, 64)


def test_counters_far_behind_the_end_give_nothing() -> None:
    """Many threads that find nothing count, too."""
    record = Record(3)
    record.counters[1:] = 10**9
    taken = [run for ith, run in drained(record, [], 3, 90, 1) if ith == 0]
    assert [u for run in taken for u in run] == list(range(30))


def test_units_one_by_one() -> None:
    record = Record(2)
    assert [next_unit(record.address) for _ in range(4)] == [0, 1, 2, 3]
