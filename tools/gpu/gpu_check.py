"""Checks and times the GPU backend on a real card: python tools/gpu/gpu_check.py [--out DIR] [--minutes N].

One call, under ten minutes: kernels and wrappers against numpy, launches against graphs bit by bit, every case of the
op table, every reference model (all on the GPU, split with the host, uploads on and off), streams that wait by
themselves and streams that the host waits for, benchmarks of kernels and of full-size models with the times of their
events, and sanitizers where the machine has them. Runs from a copied tree without installation, links or network; needs
numpy, numba, gguf, cuda-core, NVRTC and a driver, and pytest for the reference models in shared/, in or beside it.

Every section is a process of its own: what one does to the card, or how long it takes, does not end the others.
Writes gpu_check.json and <gpu>.md after each; prints a short table last. Exit code 1 when a check or a section fails.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools" / "bench"), str(ROOT / "tools" / "gpu")]
import graphsched  # noqa: E402

graphsched.__path__.append(str(ROOT))  # graphsched.backends, where the tree's symlink did not travel

import gpu_report  # noqa: E402
from gpu_sections import SECTIONS, Section, chosen  # noqa: E402

from graphsched.backends.cuda import driver  # noqa: E402

GRACE = 15.0  # seconds over its time after which a section is ended


@dataclass
class Outcome:
    """What a section found: lines of `checks`, `rows` and `facts`.

    problem: why it did not come to its end. note: that it came to the end of its time, and left the rest out.
    """

    section: str
    seconds: float = 0.0
    problem: str = ""
    note: str = ""
    checks: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def main(argv: Sequence[str] | None = None) -> int:
    """Everything; the exit code."""
    options = parse(argv)
    if reason := driver.probe():
        print(f"no GPU can be used: {reason}", file=sys.stderr)
        return 1
    if options.section:
        return inside(options)
    until, outcomes = time.monotonic() + options.minutes * 60, list[Outcome]()
    todo = chosen(options)
    for i, section in enumerate(todo):
        later = sum(s.least for s in todo[i + 1 :])
        outcomes.append(run(section, options, min(section.most, until - time.monotonic() - later)))
        gpu_report.write(options.out, outcomes, command_of(options))
    print(gpu_report.summary(outcomes))
    return 1 if any(o.problem or not all(c["passed"] for c in o.checks) for o in outcomes) else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="Check and time the GPU backend on a card.")
    p.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks", help="where results are written")
    p.add_argument("--device", type=int, default=0)
    p.add_argument("--minutes", type=float, default=9.0, help="for everything together (default: 9)")
    p.add_argument("--sections", default="", help=f"some of {','.join(s.name for s in SECTIONS)}")
    p.add_argument("--only", default="", help="cases and models whose name contains this")
    p.add_argument("--no-bench", action="store_true", help="checks only")
    p.add_argument("--no-models", action="store_true", help="kernels only")
    p.add_argument("--tune", action="store_true", help="also time variants of the mat-vec")
    p.add_argument("--small", action="store_true", help="tiny shapes and few cases, to rehearse the script")
    p.add_argument(
        "--python", default=shlex.quote(sys.executable), help="what runs a section (default: this)"
    )
    p.add_argument("--section", default="", help=argparse.SUPPRESS)  # a process of its own
    p.add_argument("--lines", type=Path, help=argparse.SUPPRESS)  # where it writes what it finds
    p.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    return p.parse_args(argv)


def command_of(options: argparse.Namespace) -> str:
    """The command, without what only this machine has."""
    flags = [
        f"--{n.replace('_', '-')}" for n in ("no_bench", "no_models", "tune", "small") if getattr(options, n)
    ]
    return " ".join(["python tools/gpu/gpu_check.py", *flags])


def inside(options: argparse.Namespace) -> int:
    """One section: each thing it finds is a line of the file at once."""
    section = next(s for s in SECTIONS if s.name == options.section)
    until = time.monotonic() + options.seconds
    with options.lines.open("w") as out:
        for kind, found in section.work(options, until):
            out.write(json.dumps({"kind": kind, **found}) + "\n")
            out.flush()
        if time.monotonic() > until:
            out.write(json.dumps({"kind": "note", "note": "stopped at the end of its time"}) + "\n")
    return 0


def run(section: Section, options: argparse.Namespace, seconds: float) -> Outcome:
    """A section in a process, for so many seconds at most."""
    outcome = Outcome(section.name)
    if seconds < section.least:
        outcome.problem = "no time was left"
        return outcome
    print(f"{section.name}: {section.about}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        lines, log = Path(folder, "lines"), Path(folder, "log")
        command = [*shlex.split(options.python), str(Path(__file__).resolve()), "--section", section.name]
        command += ["--lines", str(lines), "--seconds", str(seconds), "--device", str(options.device)]
        command += ["--only", options.only, *(f for f in ("--tune", "--small") if getattr(options, f[2:]))]
        command += ["--python", options.python]
        outcome.problem = _process(command, log, seconds + GRACE)
        _read(lines, outcome)
    outcome.seconds = time.monotonic() - began
    bad = sum(not c["passed"] for c in outcome.checks)
    failed = f", {bad} failed" if bad else ""
    print(
        f"  {outcome.seconds:.0f} s, {len(outcome.checks)} checks{failed} {outcome.problem or outcome.note}".rstrip(),
        flush=True,
    )
    return outcome


def _process(command: Sequence[str], log: Path, seconds: float) -> str:
    """Runs it, in a session that is ended as a whole; why it did not come to its end, or nothing."""
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, start_new_session=True) as process,
    ):
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"ended after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
    if code == 0:
        return ""
    said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {code}: {' / '.join(said[-2:])[:400]}"


def _read(lines: Path, outcome: Outcome) -> None:
    """What was written before the section's end, whatever that was."""
    for line in lines.read_text().splitlines() if lines.exists() else ():
        try:
            found = json.loads(line)
        except ValueError:  # cut off in the middle
            continue
        kind = found.pop("kind")
        if kind == "note":
            outcome.note = found["note"]
        elif kind == "fact":
            outcome.facts |= found
        else:
            (outcome.checks if kind == "check" else outcome.rows).append(found)


if __name__ == "__main__":
    sys.exit(main())
