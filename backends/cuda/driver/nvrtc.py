"""NVRTC: source to machine code. Needs neither a driver nor a GPU."""

from collections.abc import Sequence
from functools import cache

from graphsched.backends.cuda.driver.signature import KernelError
from graphsched.backends.cuda.driver.status import check


@cache
def nvrtc_version() -> str:
    """NVRTC's version, "13.0"; raises where NVRTC cannot be loaded."""
    from cuda.bindings import nvrtc

    major, minor = check(nvrtc.nvrtcVersion())
    return f"{major}.{minor}"


def compile_cubin(source: str, options: Sequence[str]) -> tuple[bytes, str]:
    """Machine code and compiler log. Never PTX: a driver refuses PTX of a newer NVRTC, but not its cubin."""
    from cuda.bindings import nvrtc

    program = check(nvrtc.nvrtcCreateProgram(source.encode(), b"graphsched.cu", 0, [], []))
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
        log = b" " * check(nvrtc.nvrtcGetProgramLogSize(program))
        check(nvrtc.nvrtcGetProgramLog(program, log))
        text = log.rstrip(b" \0").decode(errors="replace")
        if int(status):
            raise KernelError(f"NVRTC: {status.name}\n{text}")
        cubin = b" " * check(nvrtc.nvrtcGetCUBINSize(program))
        check(nvrtc.nvrtcGetCUBIN(program, cubin))
        return cubin, text
    finally:
        nvrtc.nvrtcDestroyProgram(program)
