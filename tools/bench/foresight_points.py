"""Predictions beside runs, many of them: a row for each, and how far off they are by the median.

    python tools/bench/foresight_points.py MODEL.gguf ... -t 1,2 -o foresight.md

`graphsched measure` comes first, with as many threads. Each model is run with single tokens behind 32 and 512 of a
prompt, with tokens of several sequences, and with prompts.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from graphsched.machine.kept import kept
from graphsched.measure.check import Check, check
from graphsched.predict.plan import make_plan
from graphsched.predict.session import prompt_plans
from graphsched.session.model import Model, open_default_or
from graphsched.session.options import SessionOptions, session_options
from graphsched.session.session import Session

TOKENS = ((1, 32), (1, 512), (4, 32), (8, 32))  # sequences, each with a token, and what they have read
PROMPTS = (8, 32, 128, 512)
N_CTX = 1024


@dataclass(frozen=True)
class Point:
    """A run and its prediction."""

    model: str
    what: str
    threads: int
    found: Check

    @property
    def error(self) -> float:
        """Of the prediction, as a share of what was measured."""
        return self.found.wall.predicted / self.found.wall.measured - 1

    @property
    def worst(self) -> str:
        """The op that most of the error is of."""
        row = max(self.found.rows, key=lambda r: abs(r.predicted - r.measured))
        return f"{row.what} {(row.predicted - row.measured) / self.found.wall.measured:+.0%}"


def points(path: str | None, threads: int) -> Iterator[Point]:
    """All points of a model."""
    model = open_default_or(path, ())
    name = Path(path).stem if path else "embedded"
    for n, n_past in TOKENS:
        options = session_options(n_ctx=max(N_CTX, n * 64), n_threads=threads, n_parallel=n)
        plan = make_plan(model, options, n, n, n_past + 1, n_sequences=n)
        found = _checked(model, options, [plan], n_past)
        yield Point(name, f"{n} × 1 token behind {n_past}", threads, found)
    options = session_options(n_ctx=N_CTX, n_threads=threads)
    for n in PROMPTS:
        found = _checked(model, options, list(prompt_plans(model, options, n)), 0)
        yield Point(name, f"prompt of {n}", threads, found)


def _checked(model: Model, options: SessionOptions, plans: list, n_past: int) -> Check:  # type: ignore[type-arg]
    session = Session(model, options)
    try:
        return check(session, plans, n_past)
    finally:
        session.engine.runtime.close()


def table(found: list[Point]) -> str:
    """All points as a Markdown table, and what they come to."""
    lines = [
        "| model | run | threads | predicted ms | measured ms | error | most of it |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for p in found:
        wall = p.found.wall
        times = f"{wall.predicted * 1e3:.2f} | {wall.measured * 1e3:.2f}"
        lines.append(f"| {p.model} | {p.what} | {p.threads} | {times} | {p.error:+.0%} | {p.worst} |")
    errors = [abs(p.error) for p in found]
    tenths = quantiles(errors, n=10) if errors[1:] else errors * 9
    lines += ["", f"{len(found)} points: median error {median(errors):.1%}, 90th percentile {tenths[8]:.1%}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("-t", "--threads", default="1", metavar="N,...")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    counts = [int(n) for n in args.threads.split(",")]
    if missing := [n for n in counts if kept(n) is None]:
        print(f"graphsched measure -t {','.join(map(str, missing))} comes first", file=sys.stderr)
        return 2
    found: list[Point] = []
    for path in args.models or [None]:
        for threads in counts:
            for point in points(path, threads):
                found.append(point)
                print(
                    point.model,
                    point.what,
                    threads,
                    f"{point.error:+.0%}",
                    point.worst,
                    file=sys.stderr,
                    flush=True,
                )
    (args.output or Path("/dev/stdout")).write_text(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
