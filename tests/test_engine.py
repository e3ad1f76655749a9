"""The engine computes rows, whatever conversation they are of."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from running import model_path

import graphsched
from graphsched.errors import OptionError
from graphsched.session.engine import Engine
from graphsched.session.model import open_default_or
from graphsched.session.options import SessionOptions
from graphsched.session.rows import Aborted, Rows

IDS = np.array([1, 5, 9, 14, 3, 7], np.int32)


@pytest.fixture
def engine() -> Engine:
    return Engine(open_default_or(None), SessionOptions(n_ctx=32, n_ubatch=16, n_threads=1))


def rows(
    first: int = 0, ids: NDArray[np.int32] = IDS, wanted: tuple[int, ...] = (), sequence: int = 0
) -> Rows:
    wants = np.isin(np.arange(len(ids)), wanted)
    positions = np.arange(first, first + len(ids), dtype=np.int32)
    return Rows(np.full(len(ids), sequence, np.int32), positions, ids, wants)


def test_logits_are_those_of_the_rows_that_want_them(engine: Engine) -> None:
    expected = graphsched.load(n_ctx=32, n_ubatch=16, n_threads=1).eval(IDS, all_logits=True)
    for wanted in ((), (5,), (0, 3, 4), (0, 1, 2, 3, 4, 5)):
        logits = engine.forward(rows(wanted=wanted))
        assert logits.dtype == np.float32
        assert logits.shape == (len(wanted), engine.model.n_vocab)
        np.testing.assert_allclose(logits, expected[list(wanted)], rtol=0, atol=2e-4)


def test_rows_continue_what_is_in_the_cells(engine: Engine) -> None:
    whole = engine.forward(rows(wanted=(5,)))
    engine.forward(rows(ids=IDS[:4]))
    np.testing.assert_allclose(engine.forward(rows(4, IDS[4:], (1,))), whole, rtol=0, atol=2e-4)


def test_results_are_the_callers_own(engine: Engine) -> None:
    first = engine.forward(rows(wanted=(5,)))
    before = first.copy()
    engine.forward(rows(ids=IDS[::-1].copy(), wanted=(5,)))
    np.testing.assert_array_equal(first, before)


WRONG: list[tuple[Callable[[], Rows], str]] = [
    (lambda: rows(ids=np.zeros(17, np.int32)), "a forward computes 1 to 16 rows, 17 are given"),
    (lambda: rows(ids=IDS[:0]), "a forward computes 1 to 16 rows, 0 are given"),
    (lambda: rows(sequence=2), "sequence 2 is given; there are 1, counted from 0"),
    (lambda: rows(27), "positions 27 to 32 are not 6 consecutive ones below 32"),
    (lambda: rows(-1), "positions -1 to 4 are not 6 consecutive ones below 32"),
    (
        lambda: rows()._replace(position=np.array([0, 2, 1, 3, 4, 5], np.int32)),
        "positions 0 to 5 are not 6 consecutive ones below 32",
    ),
]


@pytest.mark.parametrize(("given", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_rows_that_cannot_be_computed(engine: Engine, given: Callable[[], Rows], sentence: str) -> None:
    with pytest.raises(OptionError) as caught:
        engine.forward(given())
    assert str(caught.value) == sentence
    assert engine.forward(rows(wanted=(5,))).shape == (1, engine.model.n_vocab)  # it lives on


def test_an_abort_leaves_what_was_there(engine: Engine) -> None:
    sequence = engine.sequence()
    sequence.read(IDS[:2])
    engine.abort()
    with pytest.raises(Aborted):
        sequence.read(IDS[2:])
    assert sequence.tokens.tolist() == IDS[:2].tolist()
    again = sequence.read(IDS[2:])
    sequence.rewind(0)
    np.testing.assert_allclose(again, sequence.read(IDS), rtol=0, atol=2e-4)


def calls_of_a_forward(engine: Engine, given: Rows) -> int:
    """Python and C function calls, once plans and cells are there."""
    count = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    engine.forward(given)
    sys.setprofile(profile)
    engine.forward(given)
    sys.setprofile(None)
    return count


def test_python_calls_do_not_grow_with_rows(engine: Engine) -> None:
    few, many = (
        calls_of_a_forward(engine, rows(ids=np.full(n, 3, np.int32), wanted=(n - 1,))) for n in (2, 16)
    )
    assert few == many


@pytest.mark.parametrize("name", ["gemma3", "qwen35moe"])
def test_python_calls_do_not_grow_with_sequences(name: str) -> None:
    options = SessionOptions(n_ctx=512, n_ubatch=16, n_threads=1, n_parallel=9)
    engine = Engine(open_default_or(model_path(name)), options)

    def of(n: int) -> Rows:
        zeros = np.zeros(n, np.int32)
        return Rows(np.arange(n, dtype=np.int32), zeros, zeros + 3, np.ones(n, np.bool_))

    assert calls_of_a_forward(engine, of(2)) == calls_of_a_forward(engine, of(9))
