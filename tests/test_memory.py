"""The arena planner: live buffers never overlap."""

from hypothesis import given, settings
from hypothesis import strategies as st

from graphsched.run.memory import ALIGNMENT, Lifetime, plan


@st.composite
def buffers(draw: st.DrawFn) -> list[Lifetime]:
    out: list[Lifetime] = []
    for i in range(draw(st.integers(1, 25))):
        first = draw(st.integers(0, 20))
        reuse = tuple(draw(st.sampled_from(range(i))) for _ in range(draw(st.integers(0, 2)))) if i else ()
        out.append(Lifetime(i, draw(st.integers(0, 1000)), first, first + draw(st.integers(0, 8)), reuse))
    return out


@settings(max_examples=300, deadline=None)
@given(buffers())
def test_live_buffers_do_not_overlap(lifetimes: list[Lifetime]) -> None:
    arena = plan(lifetimes)
    for a in lifetimes:
        assert arena.offsets[a.key] % ALIGNMENT == 0
        assert arena.offsets[a.key] + a.nbytes <= arena.nbytes
        for b in lifetimes:
            handed_over = (a.key in b.reuse and a.last == b.first) or (b.key in a.reuse and b.last == a.first)
            if a.key == b.key or a.last < b.first or b.last < a.first or handed_over:
                continue
            end_a, end_b = arena.offsets[a.key] + a.nbytes, arena.offsets[b.key] + b.nbytes
            assert end_a <= arena.offsets[b.key] or end_b <= arena.offsets[a.key] or 0 in (a.nbytes, b.nbytes)


def test_memory_is_reused() -> None:
    chain = [Lifetime(i, 100, i, i + 1) for i in range(10)]
    assert plan(chain).nbytes == 2 * 128


def test_in_place_takes_over_the_source() -> None:
    arena = plan([Lifetime("x", 100, 0, 1), Lifetime("y", 100, 1, 2, reuse=("x",))])
    assert arena.offsets["x"] == arena.offsets["y"]
    assert arena.nbytes == 128
