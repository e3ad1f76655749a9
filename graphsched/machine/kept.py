"""The descriptions of this machine that `graphsched measure` keeps, one for each number of threads."""

import platform
from functools import cache
from pathlib import Path

from graphsched import disk_cache, env
from graphsched.errors import OptionError
from graphsched.machine.description import read
from graphsched.machine.machine import Machine


@cache
def cpu_name() -> str:
    """What the system calls the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def name_of(n_threads: int) -> str:
    """The name of this machine with so many threads."""
    return f"{cpu_name()}, {n_threads} thread{'s' if n_threads > 1 else ''}"


def file_of(n_threads: int) -> Path:
    """The file in the cache folder that describes this machine with so many threads."""
    safe = "".join(c if c.isalnum() else "-" for c in name_of(n_threads))
    return disk_cache.folder() / "machines" / f"{safe}.toml"


def kept(n_threads: int) -> Machine | None:
    """This machine as it was measured with so many threads; None if it was not, or GRAPHSCHED_MEASURED is 0."""
    path = file_of(n_threads)
    if not env.measured() or not path.is_file():
        return None
    try:
        return read(path)
    except OptionError:  # of another version: as if it were not there
        return None
