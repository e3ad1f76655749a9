"""One run of a benchmark program, ours or a llama-bench, and its results as tokens per second."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any, Final

import graphsched
from graphsched.errors import Error

TIMEOUT: Final = 3600.0  # seconds of one run


class RunError(Error):
    """A program that did not measure: the sentence names it and the model."""


@dataclass(frozen=True)
class Program:
    """A benchmark program with flags of its own. command: what comes before all flags."""

    name: str
    command: tuple[str, ...]
    flags: tuple[str, ...] = ()

    def argv(self, model: Path, tests: "Asked") -> tuple[str, ...]:
        return (*self.command, "-m", str(model), *tests.flags, "-o", "json", *self.flags)


@dataclass(frozen=True)
class Asked:
    """What is measured on a model: lists as all these programs read them, and repetitions inside of one run."""

    n_prompt: str = "512"
    n_gen: str = "64"
    n_threads: int = 1
    repetitions: int = 1

    @property
    def flags(self) -> tuple[str, ...]:
        lists = ("-p", self.n_prompt, "-n", self.n_gen)
        return (*lists, "-t", str(self.n_threads), "-r", str(self.repetitions))


def ours(name: str, flags: Sequence[str]) -> Program:
    """`graphsched bench` of this checkout."""
    return Program(name, (sys.executable, "-m", "graphsched", "bench"), tuple(flags))


def run(program: Program, model: Path, tests: Asked) -> dict[str, float]:
    """Tokens/s by test (pp512, tg64). RunError when the program fails or tells nothing."""
    where = f"{program.name} on {model.name}"
    argv = program.argv(model, tests)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=TIMEOUT)
    except OSError as e:
        raise RunError(f"{where}: {program.command[0]}: {(e.strerror or str(e)).lower()}") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{where}: no end after {TIMEOUT:.0f} s") from None
    found = speeds(done.stdout)
    if done.returncode or not found:
        raise RunError(f"{where}: exit code {done.returncode}, {_last(done.stderr)}")
    return found


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing on standard error"


def environment() -> dict[str, str]:
    """The same graphsched for programs of ours, wherever this one was found."""
    root = str(Path(graphsched.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def speeds(output: str) -> dict[str, float]:
    """Tokens/s by test, out of the JSON that llama.cpp, ik_llama.cpp and graphsched print."""
    return {test_name(row): speed for row in rows(output) if (speed := _speed(row)) is not None}


def rows(output: str) -> Iterator[dict[str, Any]]:
    """The objects of an array or of JSON lines; other text between them (ik_llama.cpp's on repacking) is skipped."""
    decoder, at = json.JSONDecoder(), output.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(output, at)
        except ValueError:
            end = at + 1
        else:
            if isinstance(value, dict) and "n_prompt" in value:
                yield value
        at = output.find("{", end)


def test_name(row: Mapping[str, Any]) -> str:
    """As the program calls it; llama.cpp leaves the name to its tables, so that it is made from the numbers."""
    if label := row.get("test"):
        return str(label)
    parts = [f"{kind}{row[key]}" for kind, key in (("pp", "n_prompt"), ("tg", "n_gen")) if row.get(key)]
    depth = row.get("n_depth", 0)
    return "+".join(parts) + (f" @ d{depth}" if depth else "")


def _speed(row: Mapping[str, Any]) -> float | None:
    """Mean of a run's samples: its repetitions follow each other, the rounds are what is interleaved."""
    samples = row.get("samples_ts")
    speed = mean(samples) if samples else row.get("avg_ts")
    return float(speed) if isinstance(speed, int | float) and 0 < speed < float("inf") else None
