"""Hooks of the test run: the additional suite of reference files (shared.py)."""

import pytest
from shared import HERE, SHARED

COUNT = pytest.StashKey[int]()


@pytest.hookimpl(trylast=True)  # behind what -m and -k leave out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests with reference files where there are none."""
    plain = [item for item in items if not item.get_closest_marker("reference")]
    config.stash[COUNT] = len(items) - len(plain)
    if not HERE:
        items[:] = plain


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line about them; .ci/run reads it."""
    count = config.stash.get(COUNT, 0)
    where = (
        f"{count} tests with those in {SHARED}"
        if HERE
        else f"none beside this checkout, {count} tests left out"
    )
    terminalreporter.write_line(f"reference files: {where}")
