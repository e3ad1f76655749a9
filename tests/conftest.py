"""Hooks of the test run: reference files as an additional suite (shared.py), and settings for any machine."""

import os

import pytest
from hypothesis import HealthCheck, settings
from shared import HERE, ROOT, SHARED

COUNT = pytest.StashKey[int]()

# Other work on the machine makes no example wrong, and where nothing may be written examples are not kept.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("read only", settings.get_profile("any machine"), database=None)
settings.load_profile("any machine" if os.access(ROOT, os.W_OK) else "read only")


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
