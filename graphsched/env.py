"""Every GRAPHSCHED_* environment variable."""

import os
from pathlib import Path

from graphsched.errors import OptionError


def cache_dir() -> Path | None:
    """GRAPHSCHED_CACHE_DIR: where compiled kernels are kept; graphsched in the user's cache folder if it is not set.

    None for a user without a home.
    """
    if found := os.environ.get("GRAPHSCHED_CACHE_DIR"):
        return Path(found)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "graphsched"
    except RuntimeError:
        return None


def compile_jobs() -> int | None:
    """GRAPHSCHED_COMPILE_JOBS: processes that compile kernels at once; None, as many as there are cores, if not set."""
    found = os.environ.get("GRAPHSCHED_COMPILE_JOBS", "")
    if found and not (found.isascii() and found.isdigit() and int(found)):
        raise OptionError(f"GRAPHSCHED_COMPILE_JOBS is {found}, a number of processes is needed")
    return int(found) if found else None


def debug() -> int:
    """GRAPHSCHED_DEBUG: how much is told on stderr, each step with those before it.

    1: unexpected errors show where they come from, and each plan is summed up. 2: each op of each run with time and
    bandwidth. 3: why every node is where it is, and where every buffer is. 4: kernels and their sources.
    """
    value = os.environ.get("GRAPHSCHED_DEBUG", "")
    return int(value) if value.isascii() and value.isdigit() else int(bool(value))


def measured() -> bool:
    """GRAPHSCHED_MEASURED: whether plans use what `graphsched measure` has found out about this machine; not with 0."""
    return os.environ.get("GRAPHSCHED_MEASURED", "") != "0"


def validate() -> bool:
    """GRAPHSCHED_VALIDATE: plans are checked, and every node of every run is compared with its numpy reference."""
    return os.environ.get("GRAPHSCHED_VALIDATE", "") not in ("", "0")


def cuda_graphs() -> str:
    """GRAPHSCHED_CUDA_GRAPHS: how decode is queued on a GPU.

    whole: a graph for each stream (the default); split: a graph for each part between flags; off: launch by launch.
    """
    found = os.environ.get("GRAPHSCHED_CUDA_GRAPHS", "whole")
    if found not in ("whole", "split", "off"):
        raise OptionError(f"GRAPHSCHED_CUDA_GRAPHS is {found}, whole, split or off is needed")
    return found


def cuda_waits() -> str:
    """GRAPHSCHED_CUDA_WAITS: how streams of a GPU wait for the host and for each other; empty: as the GPU can.

    stream: by stream memory operations, so that one launch makes a token. host: a thread of the host waits, and queues
    the parts between, each as a graph of its own.
    """
    found = os.environ.get("GRAPHSCHED_CUDA_WAITS", "")
    if found not in ("", "stream", "host"):
        raise OptionError(f"GRAPHSCHED_CUDA_WAITS is {found}, stream or host is needed")
    return found


def cuda_fusion() -> bool:
    """GRAPHSCHED_CUDA_FUSION: whether launches on a GPU take several nodes; the bits are the same without (0)."""
    return os.environ.get("GRAPHSCHED_CUDA_FUSION", "") != "0"


def cuda_cublas() -> int | None:
    """GRAPHSCHED_CUDA_CUBLAS: tokens from which a GPU's products go by cuBLASLt, where it is installed.

    None: never (0). 0: as the weights' type has it (not set).
    """
    found = os.environ.get("GRAPHSCHED_CUDA_CUBLAS", "")
    if found and not (found.isascii() and found.isdigit()):
        raise OptionError(f"GRAPHSCHED_CUDA_CUBLAS is {found}, a number of tokens is needed, or 0 for never")
    return None if found and not int(found) else int(found or 0)


def cuda_overlap() -> bool:
    """GRAPHSCHED_CUDA_OVERLAP: whether a GPU's kernels begin while the one before still runs; not with 0."""
    return os.environ.get("GRAPHSCHED_CUDA_OVERLAP", "") != "0"
