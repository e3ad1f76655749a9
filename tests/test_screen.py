"""Progress on standard error: nothing for quick work, one line in place for long work, nothing left behind."""

import io
import time

import pytest

from graphsched.cli import screen
from graphsched.cli.screen import Screen


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error of a test; not a fixture, as pytest sets it anew when the test begins."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(screen, "QUICK", 0.05)
    return stream


def shown(stream: io.StringIO) -> list[str]:
    """What has been shown, in order; empty texts took it away."""
    return stream.getvalue().split(screen._ERASE)[1:]


def test_quick_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    told = Screen()
    for i in range(4):
        told.progress("work", i, 3)
    told.long("more")
    told.clear()
    time.sleep(0.15)
    assert stream.getvalue() == ""


def test_work_that_says_nothing_for_long_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    told = Screen()
    told.progress("work", 0, 3)
    time.sleep(0.2)
    assert shown(stream) == ["work 0/3"]
    told.progress("work", 1, 3)
    told.progress("work", 3, 3)
    assert shown(stream) == ["work 0/3", "work 1/3", ""]


def test_a_line_of_its_own_takes_the_progress_away(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    told = Screen()
    told.long("tokenizing")
    time.sleep(0.2)
    told.say("hint")
    assert shown(stream) == ["tokenizing", "hint\n"]


def test_new_work_starts_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    told = Screen()
    told.progress("first", 0, 2)
    time.sleep(0.2)
    told.progress("second", 0, 2)
    told.clear()
    assert shown(stream) == ["first 0/2", ""]


@pytest.mark.parametrize("options", [{"quiet": True}, {"progress": False}])
def test_who_wants_none_gets_none(monkeypatch: pytest.MonkeyPatch, options: dict[str, bool]) -> None:
    stream = terminal(monkeypatch)
    told = Screen(**options)
    told.long("work")
    time.sleep(0.15)
    told.progress("work", 1, 1)
    assert stream.getvalue() == ""


def test_a_file_gets_the_end_of_long_work_with_v_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "QUICK", 0.01)
    for verbose, expected in ((True, "work 2/2\n"), (False, "")):
        stream = io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        told = Screen(verbose=verbose)
        told.progress("work", 0, 2)
        time.sleep(0.05)
        told.progress("work", 2, 2)
        assert stream.getvalue() == expected


def test_hints_are_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = terminal(monkeypatch)
    told = Screen()
    told.hint("a")
    told.hint("a")
    told.hint("b")
    assert stream.getvalue() == "a\nb\n"
