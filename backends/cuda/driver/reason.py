"""Whether a GPU can be used: without cuda.core, of which some calls hang where there is no driver."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

from graphsched.backends.cuda.driver import nvrtc as compiler

LIBCUDA = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
OLDEST = 13000  # cubins of NVRTC 13 run on every driver of CUDA 13: 580 and newer
NO_DEVICE = 100


def probe(
    load: Callable[[str], Any] = ctypes.CDLL, nvrtc: Callable[[], str | None] | None = None
) -> str | None:
    """Why no GPU can be used, in one sentence, or None when one can; never raises."""
    try:
        lib = load(LIBCUDA)
    except OSError:
        return f"no NVIDIA driver ({LIBCUDA} was not found)"
    return _driver_reason(lib) or (nvrtc or nvrtc_reason)()


def _driver_reason(lib: Any) -> str | None:
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    error = lib.cuInit(0)
    if error not in (0, NO_DEVICE):
        return f"the NVIDIA driver does not start (cuInit returned {error})"
    if error == NO_DEVICE or lib.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    lib.cuDriverGetVersion(ctypes.byref(version))
    v = version.value
    if v < OLDEST:
        known = f"{v // 1000}.{v % 1000 // 10}"
        return f"the NVIDIA driver is too old: it knows CUDA {known}, 13.0 is needed (driver 580)"
    return None


def nvrtc_reason() -> str | None:
    """Why kernels cannot be compiled, or None."""
    try:
        compiler.nvrtc_version()
    except ImportError:
        return "cuda-bindings is not installed (pip install 'graphsched[cuda]')"
    except Exception:  # pathfinder's own error type differs between its versions; any of them means the same
        return "NVRTC, which compiles the kernels, was not found (pip install 'graphsched[cuda]')"
    return None
