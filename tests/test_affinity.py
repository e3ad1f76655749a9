"""CPUs of threads: masks, ranges, one each; and threads that run where they were told to."""

import os

import pytest

from graphsched.errors import OptionError
from graphsched.run.affinity import listed, mask, parse_mask, parse_range, pins, usable_cpus
from graphsched.session.options import SessionOptions

linux = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not let a program choose"
)
USABLE = sorted(usable_cpus())


@linux
def test_masks_and_ranges_add_up() -> None:
    first = USABLE[0]
    assert parse_mask(hex(1 << first)) == parse_range(f"{first}-{first}") == parse_mask([first]) == {first}
    assert parse_mask("") == parse_range("") == frozenset()
    assert SessionOptions(cpu_mask={first}, cpu_range=[USABLE[-1]]).threads == len({first, USABLE[-1]})
    assert (mask({0, 2}), listed({0, 1, 3})) == ("0x5", "0-1, 3")


@pytest.mark.parametrize(
    ("mask", "span", "words"),
    [
        ("zz", "", "cpu_mask is zz"),
        ("0", "", "cpu_mask is 0"),
        ("-1", "", "cpu_mask is -1"),
        ("", "3", "cpu_range is 3"),
        ("", "2-1", "cpu_range is 2-1"),
        ("", "4000-4001", "cpu_range is 4000-4001: CPU 4000 is not one that we may use"),
    ],
)
def test_what_names_no_cpus(mask: str, span: str, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        SessionOptions(cpu_mask=mask, cpu_range=span)


@linux
def test_strict_gives_each_thread_one_in_turn() -> None:
    each = pins(frozenset(), True, len(USABLE) + 1)
    assert [sorted(p) for p in each] == [[c] for c in [*USABLE, USABLE[0]]]
    assert pins(frozenset({USABLE[0]}), False, 3) == (frozenset({USABLE[0]}),) * 3


@linux
def test_the_mask_bounds_the_threads() -> None:
    assert SessionOptions(cpu_mask=hex(1 << USABLE[0])).threads == 1


@linux
def test_threads_run_where_they_are_told_to_and_are_free_again() -> None:
    from graphsched.backends.cpu.program.pool import POOL
    from graphsched.session.model import open_default_or
    from graphsched.session.session import Session

    def masks() -> list[set[int]]:
        return [os.sched_getaffinity(t) for t in (0, *(t.native_id or 0 for t in POOL._threads))]

    before = os.sched_getaffinity(0)
    one = {USABLE[-1]}
    options = SessionOptions(n_ctx=64, n_threads=2, cpu_range=f"{USABLE[-1]}-{USABLE[-1]}")
    for chosen, cpus in ((options, one), (SessionOptions(n_ctx=64, n_threads=2), before)):
        session = Session(open_default_or(None), chosen)
        session.eval([1, 2])
        assert masks()[:2] == [cpus, cpus]
        session.close()
