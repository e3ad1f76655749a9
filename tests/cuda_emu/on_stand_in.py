"""Run a script on the stand-in driver: python on_stand_in.py LIBCUDA SCRIPT ARGS...; GS_FAKE_CUBLAS: a cuBLASLt, too.

Everything is real, cuda.core included, but for two things: libcuda is the stand-in, and "cubins" come from g++.
"""

import ctypes
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[2]


def main(library: str, script: str, *args: str) -> None:
    ctypes.CDLL(
        library, mode=ctypes.RTLD_GLOBAL
    )  # found by its SONAME when cuda.bindings asks for libcuda.so.1
    sys.path[:0] = [
        str(ROOT),
        str(ROOT / "tests"),
        str(ROOT / "tools" / "bench"),
        str(ROOT / "tools" / "gpu"),
    ]
    import graphsched

    graphsched.__path__.append(str(ROOT))
    from cuda_emu.emulator import FLAGS, build
    from graphsched.backends.cuda import driver
    from graphsched.backends.cuda.driver import cublas, nvrtc

    def compile_cubin(source: str, options: Sequence[str]) -> tuple[bytes, str]:
        defines = tuple(o for o in options if o.startswith("-D"))
        return build(source, (*FLAGS, *defines)).read_bytes(), ""

    driver.compile_cubin = compile_cubin
    fake = os.environ.get("GS_FAKE_CUBLAS", "")  # the real one asks the driver for more than the stand-in has
    found = cublas.described(ctypes.CDLL(fake)) if fake else None
    cast(Any, cublas).library = lambda: found
    # the version is part of the cubin cache's key: what g++ made never meets a real GPU
    cast(Any, nvrtc).nvrtc_version = cast(Any, driver).nvrtc_version = lambda: "g++"
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
