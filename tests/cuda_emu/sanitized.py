"""Runs cases of the kernels under a sanitizer: python sanitized.py address|thread FILES NAMES.

FILES: "planted" for a kernel with the bug NAMES, or kernel files and the types to build them for, as in
"matmul:q4_0,q8_0 w2a8:"; NAMES: how names of cases start, all if empty. Prints each case before it runs; a report ends
the process. Needs the sanitizer's library preloaded, see `environment`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (0, 11)  # in order and at once; warp by warp, backwards


def library(mode: str) -> str:
    """The sanitizer's library; its bare name where g++ has none."""
    command = ["g++", f"-print-file-name=lib{mode[0]}san.so"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environment(mode: str) -> dict[str, str]:
    """What the process needs: the sanitizer's library, and what keeps Python's own doings out of the reports."""
    return {
        **os.environ,
        "LD_PRELOAD": library(mode),
        "ASAN_OPTIONS": "detect_leaks=0:handle_segv=0:allow_user_segv_handler=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:exitcode=66:report_signal_unsafe=0",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
    }


PLANTED = {  # kernels of 64 threads with 63 numbers in x and y; what no other run finds
    "neighbour": "GS_SHARED(float, s, 64);\n s[threadIdx.x] = 1;\n y[0] = s[63 - threadIdx.x];",
    "shared": "GS_SHARED(float, s, 63);\n s[threadIdx.x] = 1;\n",
    "global": "if (threadIdx.x == 0) y[0] = x[63];",
    "overflow": "y[0] = (float)(2147483647 - 32 + (int)threadIdx.x);",
    "nothing": "if (threadIdx.x == 0) y[0] = x[62];",
}


def run(
    mode: str, files: Mapping[str, tuple[str, ...]] | str, names: str
) -> subprocess.CompletedProcess[str]:
    """The cases whose names start with one of `names`."""
    told = files if isinstance(files, str) else " ".join(f"{stem}:{','.join(t)}" for stem, t in files.items())
    command = [sys.executable, str(Path(__file__)), mode, told, names]
    if mode == "thread" and shutil.which(
        "setarch"
    ):  # its memory map does not know every address that a kernel may choose
        command = ["setarch", "-R", *command]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(mode), timeout=1800
    )


def main(mode: str, told: str, names: str) -> None:
    import numpy as np

    from cuda_emu.cases import cases
    from cuda_emu.emulator import SANITIZERS, EmulatedTarget
    from cuda_emu.values import error

    if told == "planted":
        planted(mode, names)
        return
    files = {
        stem: tuple(filter(None, types.split(",")))
        for stem, _, types in (f.partition(":") for f in told.split())
    }
    targets = [EmulatedTarget(seed, SANITIZERS[mode], files) for seed in SEEDS]
    n = 0
    for number, case in enumerate(cases()):
        if names and not case.name.startswith(tuple(names.split())):
            continue
        print(case.name, flush=True)
        got, want, tolerance = case.run(targets[number % len(targets)], np.random.default_rng(number))
        assert error(got, want) <= tolerance, case.name
        n += 1
    print(f"{n} cases passed")


def planted(mode: str, name: str) -> None:
    import numpy as np

    from cuda_emu.emulator import SANITIZERS, Emulator, bordered

    source = f'extern "C" __global__ void k(const float* x, float* y) {{ {PLANTED[name]} }}\n'
    x, y = (bordered(np.ones(63, np.float32)) for _ in range(2))
    Emulator("", source=source, more=SANITIZERS[mode]).launch("k", (1,), 64, (x, y))


if __name__ == "__main__":
    main(*sys.argv[1:])
