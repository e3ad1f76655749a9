"""Hooks of the test run: the additional suite of reference files."""

import pytest
from shared import HERE, SHARED

COUNT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests with reference files where there are none."""
    marked = [item for item in items if item.get_closest_marker("reference")]
    config.stash[COUNT] = len(marked)
    if not HERE:
        items[:] = [item for item in items if not item.get_closest_marker("reference")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    count = config.stash.get(COUNT, 0)
    said = f"in {SHARED}" if HERE else "are not beside this checkout, their tests left out"
    terminalreporter.write_line(f"reference files {said}: {count} tests")
