"""Processes on the stand-in driver (cuda_emu/): scripts, and a worker that answers questions; no GPU."""

import atexit
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
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
def folder() -> Path:
    """Where this process keeps what it builds, until it ends."""
    made = tempfile.TemporaryDirectory(prefix="stand-in-")
    atexit.register(made.cleanup)
    return Path(made.name)


@cache
def library() -> Path:
    """The stand-in libcuda.so.1."""
    out = folder() / "libcuda.so.1"
    flags = ("-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libcuda.so.1")
    subprocess.run(["g++", *flags, HERE / "fake_cuda.cpp", "-o", out, "-ldl"], check=True)
    return out


@cache
def fake_cublas() -> str:
    """The stand-in of cuBLASLt."""
    out = folder() / "libcublasLt.so.13"
    flags = ("-std=c++20", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-parameter")
    subprocess.run(["g++", *flags, HERE / "fake_cublas.cpp", "-o", out], check=True)
    return str(out)


def on_stand_in(script: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "on_stand_in.py"), str(library()), str(script), *args]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env={**os.environ, **env},
        cwd=ROOT,
    )


def gpu_check(out: Path, *flags: str, **env: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """tools/gpu/gpu_check.py on the stand-in, each section in a process on it, too; what it wrote."""
    python = shlex.join([sys.executable, str(HERE / "on_stand_in.py"), str(library())])
    script = ROOT / "tools" / "gpu" / "gpu_check.py"
    done = on_stand_in(script, "--small", "--out", str(out), "--python", python, *flags, **env)
    return done, json.loads((out / "gpu_check.json").read_text())


class StandIn:
    """A process on the stand-in driver that answers questions (cuda_emu/worker.py), until its block ends."""

    def __init__(self, **env: str) -> None:
        command = [sys.executable, str(HERE / "on_stand_in.py"), str(library()), str(HERE / "worker.py")]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **env}, cwd=ROOT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """Ends the process: of itself when no more questions come, or by force where it does not."""
        process = self._process
        try:
            process.communicate(timeout=300)
        except (OSError, subprocess.TimeoutExpired):
            process.kill()
            process.communicate()

    def ask(self, question: str, **arguments: Any) -> dict[str, Any]:
        """The answer; AssertionError if the question failed or the process has ended."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"ask": question, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise AssertionError(ENDED) from None
        line = self._process.stdout.readline()
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
