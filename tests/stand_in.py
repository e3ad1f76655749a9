"""Processes on the stand-in driver (cuda_emu/): scripts, and a worker that answers questions; no GPU."""

import atexit
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from cuda_emu.emulator import built_whole
from numpy.typing import NDArray
from running import check, reference

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tests" / "cuda_emu"
ENDED = "the worker has ended"
needs_stand_in = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed"),
    pytest.mark.skipif(
        find_spec("cuda") is None or find_spec("cuda.core") is None, reason="cuda.core is not installed"
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="the stand-in driver is a Linux library"),
]
Array = NDArray[np.float32]


@cache
def library() -> Path:
    """The stand-in libcuda.so.1."""
    flags = ("-std=c++20", "-O1", "-pthread", "-Wl,-soname,libcuda.so.1")
    return built_whole(HERE / "fake_cuda.cpp", "libcuda.so.1", flags)


@cache
def fake_cublas() -> str:
    """The stand-in of cuBLASLt."""
    flags = ("-std=c++20", "-O2", "-Wall", "-Wextra", "-Wno-unused-parameter")
    return str(built_whole(HERE / "fake_cublas.cpp", "libcublasLt.so.13", flags))


class Server:
    """A process on the stand-in that forks for each run: importing takes longer than most of them."""

    def __init__(self) -> None:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, str(HERE / "on_stand_in.py"), str(library()), "--serve"]
        with its:
            self._process = subprocess.Popen(command, stdin=its.fileno(), cwd=ROOT)
        self._socket = mine

    def close(self) -> None:
        """Ends it; runs that go on are ended by who started them."""
        self._socket.close()
        self._process.wait(timeout=300)

    def start(self, command: Sequence[str], streams: Sequence[int], env: Mapping[str, str]) -> int:
        """The number of a process that runs a script with these standard streams."""
        question = {"run": list(command), "env": {**os.environ, **env}}
        socket.send_fds(self._socket, [json.dumps(question).encode()], list(streams))
        pid: int = json.loads(self._socket.recv(1 << 10))
        return pid

    def wait(self, pid: int, seconds: float) -> int | None:
        """The exit code of a process, None if it still runs after so long."""
        end = time.monotonic() + seconds
        while True:
            self._socket.send(json.dumps({"wait": pid}).encode())
            code: int | None = json.loads(self._socket.recv(1 << 10))
            if code is not None or time.monotonic() > end:
                return code
            time.sleep(0.005)

    def end(self, pid: int) -> None:
        """By force."""
        os.kill(pid, signal.SIGKILL)
        self.wait(pid, 60)


@cache
def server() -> Server:
    """That of this process."""
    made = Server()
    atexit.register(made.close)
    return made


def on_stand_in(script: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a script; what it printed, and its exit code."""
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        open(os.devnull) as nothing,
    ):
        command, streams = [str(script), *args], [nothing.fileno(), out.fileno(), err.fileno()]
        pid = server().start(command, streams, env)
        code = server().wait(pid, 900)
        if code is None:
            server().end(pid)
            raise subprocess.TimeoutExpired(command, 900)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def gpu_check(out: Path, *flags: str, **env: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """tools/gpu/gpu_check.py on the stand-in, each section in a process on it, too; what it wrote."""
    python = shlex.join([sys.executable, str(HERE / "on_stand_in.py"), str(library())])
    script = ROOT / "tools" / "gpu" / "gpu_check.py"
    done = on_stand_in(script, "--small", "--out", str(out), "--python", python, *flags, **env)
    return done, json.loads((out / "gpu_check.json").read_text())


class StandIn:
    """A process on the stand-in driver that answers questions (cuda_emu/worker.py), until its block ends."""

    def __init__(self, **env: str) -> None:
        (its_in, asked), (answers, its_out) = os.pipe(), os.pipe()
        self._asked, self._answers = open(asked, "w"), open(answers)  # noqa: SIM115
        self._pid = server().start([str(HERE / "worker.py")], (its_in, its_out, 2), env)
        os.close(its_in)
        os.close(its_out)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Ends the process: of itself when no more questions come, or by force where it does not."""
        with suppress(BrokenPipeError):
            self._asked.close()
        if server().wait(self._pid, 300) is None:
            server().end(self._pid)
        self._answers.close()

    def ask(self, question: str, **arguments: Any) -> dict[str, Any]:
        """The answer; AssertionError if the question failed or the process has ended."""
        try:
            self._asked.write(json.dumps({"ask": question, **arguments}) + "\n")
            self._asked.flush()
        except BrokenPipeError:
            raise AssertionError(ENDED) from None
        line = self._answers.readline()
        assert line, ENDED
        answer: dict[str, Any] = json.loads(line)
        assert "failed" not in answer, answer["where"]
        return answer


def run(gpu: StandIn, tmp_path: Path, name: str, n: int = 32, **options: Any) -> Array:
    """The logits of a model's first n tokens."""
    path = tmp_path / "logits.npy"
    gpu.ask("logits", name=name, path=str(path), n=n, **options)
    got: Array = np.load(path)
    return got


def close(name: str, got: Array) -> None:
    check(name, got, reference(name).logits[: len(got)])


def by_default(names: list[str], default: list[str]) -> list[Any]:
    """Parameters: those that are not among the default ones are slow."""
    return [pytest.param(n, marks=() if n in default else pytest.mark.slow) for n in names]
