"""Hooks of the test run: reference files as an additional suite (shared.py), and settings for any machine."""

import gc
import os
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from shared import HERE, ROOT, SHARED

from graphsched import disk_cache
from graphsched.cli.main import run as run_command
from graphsched.run.limits import usable_cores

# Of a user who has none kernels are kept among the temporary files: what commands say about that is in no test's way.
with warnings.catch_warnings(action="ignore"):
    os.environ["GRAPHSCHED_CACHE_DIR"] = str(disk_cache.folder())

os.environ["GRAPHSCHED_MEASURED"] = "0"  # tests know nothing of this machine
os.environ.setdefault("GRAPHSCHED_COMPILE_JOBS", "1")  # tests run side by side already

# Other work on the machine makes no example wrong, and where nothing may be written examples are not kept.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("read only", settings.get_profile("any machine"), database=None)
settings.load_profile("any machine" if os.access(ROOT, os.W_OK) else "read only")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process: its exit code, standard output and standard error."""

    def with_args(*args: object) -> tuple[int, str, str]:
        code = run_command([str(a) for a in args])
        return code, *capsys.readouterr()

    return with_args


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What -n auto means. Each takes half a gigabyte, and each core that they share slows all of them down."""
    return min(usable_cores(), 4)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each process begins with a piece of its own: neighbours use the same kernels, which are compiled once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.hookimpl(trylast=True)  # behind what -m and -k leave out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out the tests with reference files where there are none."""
    if not HERE:
        items[:] = [item for item in items if not item.get_closest_marker("reference")]


def pytest_collection_finish() -> None:
    """Ten thousand tests stay until the end: the garbage collector need not look at them again and again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line about them; .ci/run reads it."""
    reports = (r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ()))
    count = sum(r.when == "call" and "reference" in r.keywords for r in reports)
    where = f"{count} tests with those in {SHARED}" if HERE else "none beside this checkout"
    terminalreporter.write_line(f"reference files: {where}")
