"""Run a script on the stand-in driver: python on_stand_in.py LIBCUDA SCRIPT ARGS...; GS_FAKE_CUBLAS: a cuBLASLt, too.

Everything is real, cuda.core included, but for two things: libcuda is the stand-in, and "cubins" come from g++.
With --serve in place of a script its standard input is a socket that asks for runs (stand_in.py): each is a fork of
this process, for which everything is imported already.
"""

import ctypes
import json
import os
import runpy
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("", "tests", "tests/cuda_emu", "tools/bench", "tools/gpu")
USED = ("worker", "graphsched.cli.main", "graphsched.backends.cuda.device")  # by most scripts


def on_stand_in(library: str) -> None:
    """From here on this process has the stand-in for a driver; GPUs are not looked for yet."""
    ctypes.CDLL(
        library, mode=ctypes.RTLD_GLOBAL
    )  # found by its SONAME when cuda.bindings asks for libcuda.so.1
    sys.path[:0] = [str(ROOT / folder) for folder in FOLDERS]
    import graphsched

    graphsched.__path__.append(str(ROOT))
    from cuda_emu.emulator import FLAGS, build
    from cuda_emu.values import built_for
    from graphsched.backends.cuda import driver
    from graphsched.backends.cuda.driver import nvrtc
    from graphsched.backends.cuda.launch import compiler

    def compile_cubin(source: str, options: Sequence[str]) -> tuple[bytes, str]:
        defines = tuple(o for o in options if o.startswith("-D"))
        return build(source, (*FLAGS, *defines)).read_bytes(), ""

    driver.compile_cubin = compile_cubin
    assemble = compiler.assemble
    cast(Any, compiler).assemble = lambda stem, types=(): assemble(stem, built_for(stem, types))
    # the version is part of the cubin cache's key: what g++ made never meets a real GPU
    cast(Any, nvrtc).nvrtc_version = cast(Any, driver).nvrtc_version = lambda: "g++"


def run(script: str, *args: str) -> None:
    """The script as the main program."""
    from graphsched.backends.cuda.driver import cublas

    fake = os.environ.get("GS_FAKE_CUBLAS", "")  # the real one asks the driver for more than the stand-in has
    found = cublas.described(ctypes.CDLL(fake)) if fake else None
    cast(Any, cublas).library = lambda: found
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")


def next_run(asked: socket.socket) -> list[str] | None:
    """In a fork: what it is to run, with the streams and the environment that came with it. None when no more come.

    Questions: {"run": script and arguments, "env"}, answered by the number of a process; {"wait": process}, by its exit
    code or null while it runs.
    """
    while True:
        data, streams, _, _ = socket.recv_fds(asked, 1 << 20, 3)
        if not data:
            return None
        question = json.loads(data)
        if "wait" in question:
            pid, status = os.waitpid(question["wait"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif (answer := os.fork()) == 0:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.environ.clear()
            os.environ.update(question["env"])
            command: list[str] = question["run"]
            return command
        for stream in streams:
            os.close(stream)
        asked.send(json.dumps(answer).encode())


def main(library: str, script: str, *args: str) -> None:
    on_stand_in(library)
    command: list[str] | None = [script, *args]
    if script == "--serve":
        for module in USED:
            import_module(module)
        with socket.socket(fileno=os.dup(0)) as asked:
            command = next_run(asked)
    if command:
        run(*command)


if __name__ == "__main__":
    main(*sys.argv[1:])
