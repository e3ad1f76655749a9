"""Ours beside llama-bench programs on the same files: python tools/bench/bench_peers.py -m FILE --peer NAME=PATH.

Builds nothing. In every round each program measures each model once, in an order that turns from round to round, and
the machine's peaks are measured beside them. Prints medians, ratios to each peer and to the best, the bandwidth that
single tokens reach, the share of the int8 peak that prompts reach; --out writes them into a page.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, Final

import checkout  # noqa: F401
from bench_report import command_line, commit, complain, exit_code, machine, write_section
from model_work import prompt_ops, token_bytes
from peer_runs import Asked, Program, RunError, ours, run
from peer_table import Estimate, Results, Work, as_table, peak_lines, round_lines, rows

from graphsched.backends.cpu.peaks import measured_peaks
from graphsched.errors import OptionError
from graphsched.session.options import SessionOptions

OURS: Final = "graphsched"


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 2 for bad input, also when nothing could be measured."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: measure(parse(argv), argv))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", type=Path, action="append", required=True, help="a GGUF file; repeatable")
    p.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PATH", help="a llama-bench; repeatable"
    )
    p.add_argument("--ours", action="append", metavar="FLAGS", help="flags of ours; repeated: a program each")
    p.add_argument("--theirs", action="append", default=[], metavar="NAME=FLAGS", help="flags of one peer")
    p.add_argument("-p", "--n-prompt", default="512", help="tokens of prompts (default: 512)")
    p.add_argument("-n", "--n-gen", default="64", help="tokens generated (default: 64)")
    p.add_argument(
        "-t", "--threads", type=int, default=0, help="threads of all programs (default: all cores)"
    )
    p.add_argument("-r", "--rounds", type=int, default=5, help="rounds (default and least: 5)")
    p.add_argument("--reps", type=int, default=1, help="repetitions inside of one run (default: 1)")
    p.add_argument(
        "--for", action="append", default=[], metavar="GLOB=FLAGS", dest="others",
        help="other -p, -n, -t, --reps for models whose file names match, as in '*260K*=-p 0 -n 128 -t 1'",
    )  # fmt: skip
    p.add_argument(
        "--estimate", action="append", default=[], metavar="NAME=FACTOR[:TEST[:MODEL[:OF]]]",
        help="a peer that is not there: FACTOR x the first peer, for tests and models that match the patterns; "
        "OF: on that model instead",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="plain data instead of a table")
    p.add_argument("--out", type=Path, help="write the result as a section of this page")
    p.add_argument("--title", default="Against other programs", help="title of that section")
    return p.parse_args(with_values(argv))


def with_values(argv: Sequence[str]) -> list[str]:
    """--ours takes whatever follows: argparse would read flags in it as flags of this program."""
    joined = [f"--ours={value}" if flag == "--ours" else value for flag, value in pairwise(["", *argv])]
    return [word for word in joined if word != "--ours"]


def measure(options: argparse.Namespace, argv: Sequence[str]) -> int:
    check(options)
    own, peers, estimates = (
        own_programs(options),
        peer_programs(options),
        list(map(estimate, options.estimate)),
    )
    if clash := {e.name for e in estimates} & {p.name for p in (*own, *peers)}:
        raise OptionError(f"--estimate {min(clash)}: this program is measured")
    plan = {model: tests_of(model, options) for model in options.model}
    results = in_rounds(plan, [*own, *peers], options.rounds)
    made = rows(results, [p.name for p in own], [p.name for p in peers], estimates, work_of(options.model))
    if not made:
        raise OptionError("nothing was measured")
    if options.json:
        print(json.dumps(as_data(results, made, argv), indent=1))
    else:
        print("\n".join([as_table(made), "", *peak_lines(results)]))
    if options.out:
        write_section(options.out, options.title, page(results, made, options, argv))
    return 0


def check(options: argparse.Namespace) -> None:
    if options.rounds < 5:
        raise OptionError(f"-r {options.rounds}: fewer than 5 rounds tell nothing")
    for model in options.model:
        if not model.is_file():
            raise OptionError(f"{model}: no such file")
    names = [model.name for model in options.model]
    if twice := next((n for n in names if names.count(n) > 1), ""):
        raise OptionError(f"-m: two files are called {twice}")


def own_programs(options: argparse.Namespace) -> list[Program]:
    """Ours, once for each --ours."""
    given = [tuple(shlex.split(flags)) for flags in options.ours or [""]]
    return [ours(" ".join((OURS, *(flags if len(given) > 1 else ()))), flags) for flags in given]


def peer_programs(options: argparse.Namespace) -> list[Program]:
    flags = {name: tuple(shlex.split(text)) for name, text in map(_pair, options.theirs)}
    peers = [Program(name, (path,), flags.pop(name, ())) for name, path in map(_pair, options.peer)]
    if flags:
        raise OptionError(f"--theirs {min(flags)}: no --peer has this name")
    if twice := next((p.name for p in peers if [q.name for q in peers].count(p.name) > 1), ""):
        raise OptionError(f"--peer {twice}: given twice")
    return peers


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise OptionError(f"{text!r}: NAME=... is expected")
    return name, value


def estimate(text: str) -> Estimate:
    name, value = _pair(text)
    factor, *patterns = value.split(":")
    try:
        return Estimate(name, float(factor), *patterns)
    except (TypeError, ValueError):
        raise OptionError(f"--estimate {text}: NAME=FACTOR[:TEST[:MODEL[:OF]]] is expected") from None


def tests_of(model: Path, options: argparse.Namespace) -> Asked:
    """The tests of one model: the last --for that matches its name changes those of all."""
    threads = options.threads or SessionOptions().threads
    tests = Asked(options.n_prompt, options.n_gen, threads, options.reps)
    for pattern, flags in map(_pair, options.others):
        if fnmatchcase(model.name, pattern):
            tests = replace(tests, **_changes(flags))
    return tests


def _changes(flags: str) -> dict[str, Any]:
    """Pairs of flag and value."""
    words, found = shlex.split(flags), {}
    fields = {
        "-p": ("n_prompt", str),
        "-n": ("n_gen", str),
        "-t": ("n_threads", int),
        "--reps": ("repetitions", int),
    }
    for flag, value in zip_longest(words[::2], words[1::2]):
        if flag not in fields:
            raise OptionError(f"--for: {flag} is none of {', '.join(fields)}")
        name, kind = fields[flag]
        try:
            found[name] = kind(value)
        except (TypeError, ValueError):
            raise OptionError(f"--for: {flag} {value or ''} is not a number") from None
    return found


def in_rounds(plan: Mapping[Path, Asked], programs: Sequence[Program], n: int) -> Results:
    """n rounds; a program that fails on a model is told once and left out there."""
    results = Results(threads={model.name: tests.n_threads for model, tests in plan.items()})
    for i in range(n):
        for threads in sorted(set(results.threads.values())):
            results.peaks.setdefault(threads, []).append(measured_peaks(threads))
        for model, tests in plan.items():
            for program in programs if i % 2 == 0 else programs[::-1]:
                if (program.name, model.name) in results.left_out:
                    continue
                complain(f"round {i + 1} of {n}: {program.name} on {model.name}")
                try:
                    results.add(model.name, program.name, run(program, model, tests))
                except RunError as e:
                    complain(f"left out: {e}")
                    results.left_out.append((program.name, model.name))
    return results


def work_of(models: Sequence[Path]) -> Work:
    paths = {model.name: model for model in models}
    return Work(
        cache(lambda name: token_bytes(paths[name])), cache(lambda name, n: prompt_ops(paths[name], n))
    )


def as_data(results: Results, made: Sequence[Any], argv: Sequence[str]) -> dict[str, Any]:
    rounds = [{"model": m, "test": t, "speeds": s} for (m, t), s in results.speeds.items()]
    about = {"machine": machine(), "commit": commit(), "command": command_line("bench_peers.py", argv)}
    return {**about, "peaks": results.peaks, "rounds": rounds, "rows": [row.data() for row in made]}


def page(results: Results, made: Sequence[Any], options: argparse.Namespace, argv: Sequence[str]) -> str:
    """The section: where, with what, the table, the peaks, all rounds."""
    marked = "≈: not measured; " + ", ".join(options.estimate) if options.estimate else ""
    return "\n\n".join(
        filter(
            None,
            (
                f"{machine()}. Commit {commit()}. {options.rounds} rounds in turn, medians.",
                f"```\n{command_line('bench_peers.py', argv)}\n```",
                as_table(made),
                marked,
                "; ".join(f"{program} does not run {model}" for program, model in results.left_out),
                "Measured in the same rounds, medians (least to most): " + " ".join(peak_lines(results)),
                "Rounds:\n\n" + "\n".join(round_lines(results)),
            ),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
