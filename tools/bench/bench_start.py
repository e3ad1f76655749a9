"""Start-up, memory and overhead of one model: python tools/bench/bench_start.py -m FILE [-t N] [-r ROUNDS].

The first start has an empty kernel cache in a folder of its own, the others find what it left there. Processes are
timed as a user would: from the command to its end, one token generated. Private memory is what the process alone has
(RssAnon of /proc, sampled), against the KV cache, the arenas and 300 MB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import checkout  # noqa: F401
from bench_report import command_line, commit, exit_code, machine, number, table, write_result
from peer_runs import environment

from graphsched.errors import Error
from graphsched.predict.plan import make_plan
from graphsched.session.model import Model, open_default_or
from graphsched.session.options import SessionOptions
from graphsched.types.devices import HOST

PROMPT: Final = "Once upon a time there was a scheduler that told everyone where each op would run, and why"
MARGIN: Final = 300e6  # bytes of private memory besides KV cache and arenas
KERNELS, FIRST_S, SECOND_S, OVERHEAD = 40, 15.0, 1.5, 0.01  # the most that is aimed for
SAMPLE_S: Final = 0.005


@dataclass(frozen=True)
class Line:
    """One measurement and what it should not exceed; seconds, bytes, a count or a fraction."""

    what: str
    value: float
    limit: float
    unit: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.what, self._text(self.value), self._text(self.limit), "yes" if self.met else "no"

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    def _text(self, value: float) -> str:
        if self.unit == "B":
            return f"{number(value / 1e6, 0)} MB"
        if self.unit == "%":
            return f"{100 * value:.2f} %"
        return f"{value:.2f} s" if self.unit == "s" else f"{value:.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: report(parse(argv), argv))


def report(options: argparse.Namespace, argv: Sequence[str]) -> int:
    lines, notes = measured(options)
    text = table(["", "measured", "at most", "met"], [line.cells for line in lines])
    if options.json:
        about = {"machine": machine(), "commit": commit(), "command": command_line("bench_start.py", argv)}
        print(json.dumps({**about, **notes, "lines": [asdict(line) for line in lines]}, indent=1))
    else:
        print("\n".join([text, "", *sentences(notes)]))
    write_result(options, "bench_start.py", argv, [text, *sentences(notes)])
    return 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-m", "--model", type=Path, help="a GGUF file (default: the embedded model)")
    p.add_argument("-t", "--threads", type=int, default=0, help="threads (default: all cores)")
    p.add_argument("-r", "--rounds", type=int, default=5, help="starts after the first (default: 5)")
    p.add_argument("-n", "--n-gen", type=int, default=32, help="tokens of the decode profiled (default: 32)")
    p.add_argument(
        "-c", "--ctx-size", type=int, default=0, help="context (default: the model's, at most 4096)"
    )
    p.add_argument("--json", action="store_true", help="plain data instead of a table")
    p.add_argument("--out", type=Path, help="write the result as a section of this page")
    p.add_argument("--title", default="Start-up, memory and overhead", help="title of that section")
    return p.parse_args(argv)


def measured(options: argparse.Namespace) -> tuple[list[Line], dict[str, Any]]:
    """The table's lines, and what explains them."""
    model = open_default_or(options.model)
    session = SessionOptions(n_threads=options.threads, n_ctx=options.ctx_size)
    flags = ["-t", str(session.threads), *(["-c", str(session.n_ctx)] if session.n_ctx else [])]
    flags += ["-m", str(model.file.path)]
    with tempfile.TemporaryDirectory(prefix="graphsched-start-") as folder:
        env = {**environment(), "GRAPHSCHED_CACHE_DIR": folder}
        run = ["run", "-q", *flags, "-n", "1", "-p", PROMPT]
        first, first_private = started(run, env)
        later = [started(run, env) for _ in range(options.rounds)]
        reading = read_seconds(model.file.path)
        needed = kv_and_arena(model, session)
        prompt = min(session.n_ubatch, model.context(session) - 1)
        bench = ["bench", "-q", *flags, "-p", str(prompt), "-n", "8", "-r", "1"]
        started(bench, env)  # compiles what long prompts need besides
        kernels = compiled(Path(folder))
        _, private = started(bench, env)
        shares = overhead(["profile", *flags, "--phase", "decode", "-p", "16", "-n", str(options.n_gen)], env)
    second = median(seconds for seconds, _ in later)
    lines = [
        Line("first start, no kernels cached", first, FIRST_S, "s"),
        Line("second start, without reading the file", max(second - reading, 0.0), SECOND_S, "s"),
        Line("kernels compiled for one model", kernels, KERNELS),
        Line("peak private memory", private, needed + MARGIN, "B"),
        Line("barriers and dispatch of a decode", sum(shares.values()), OVERHEAD, "%"),
    ]
    notes = {
        "model": model.file.path.name,
        "second_start_s": [seconds for seconds, _ in later],
        "read_s": reading,
        "kv_and_arena": needed,
        "first_private": first_private,
        "overhead": shares,
        "n_prompt": prompt,
    }
    return lines, notes


def sentences(notes: Mapping[str, Any]) -> list[str]:
    later = " ".join(f"{s:.2f}" for s in notes["second_start_s"])
    shares = ", ".join(f"{name} {100 * share:.2f} %" for name, share in notes["overhead"].items())
    kv, private = (number(notes[key] / 1e6, 0) for key in ("kv_and_arena", "first_private"))
    return [
        f"{notes['model']}: later starts {later} s, of which reading the file {notes['read_s']:.2f} s. "
        f"KV cache and arenas {kv} MB, with a prompt of {notes['n_prompt']} tokens; "
        f"while kernels were compiled {private} MB were private. Of a decode: {shares}."
    ]


def started(words: Sequence[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds of a whole process of ours, and the most private bytes that it had."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        command, peak = [sys.executable, "-m", "graphsched", *words], [0.0]
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=errors) as child:
            watcher = threading.Thread(target=_watch, args=(child, peak))
            watcher.start()
            code = child.wait()
            seconds = time.perf_counter() - began
            watcher.join()
        errors.seek(0)
        if code:
            told = errors.read().decode(errors="replace").strip().splitlines()
            raise Error(f"graphsched {words[0]}: exit code {code}, {told[-1] if told else 'nothing said'}")
    return seconds, peak[0]


def _watch(child: "subprocess.Popen[bytes]", peak: list[float]) -> None:
    while child.poll() is None:
        peak[0] = max(peak[0], private_bytes(child.pid))
        time.sleep(SAMPLE_S)


def private_bytes(pid: int) -> float:
    """Anonymous memory of a process; pages of mapped files are not counted, the system can drop them."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def compiled(folder: Path) -> int:
    """Kernels in a cache folder; the functions of the pool, which Python calls, are none."""
    return sum(not file.name.startswith("program-pool-") for file in folder.rglob("*.kernel"))


def read_seconds(path: Path) -> float:
    """Reading the whole file once, from the system's cache if it is there, as it is when a model starts again."""
    buffer, began = bytearray(16 << 20), time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - began


def kv_and_arena(model: Model, options: SessionOptions) -> float:
    """KV cache, and the arenas of the plans that such a session makes: a token, the prompt at hand, a micro-batch."""
    context = model.context(options)
    sizes = [n for n in (1, 32, min(options.n_ubatch, context)) if n <= context]
    plans = [make_plan(model, options, n, 1, context).memory[HOST] for n in sizes]
    return plans[0].kv + sum(p.arena for p in plans)


def overhead(words: Sequence[str], env: Mapping[str, str]) -> dict[str, float]:
    """Shares of a decode's wall time in which nothing is computed because of steps and threads."""
    argv = [sys.executable, "-m", "graphsched", *words, "--json"]
    done = subprocess.run(argv, env=dict(env), capture_output=True, text=True)
    if done.returncode:
        raise Error(f"graphsched profile: exit code {done.returncode}, {done.stderr.strip()[-200:]}")
    return overhead_shares(json.loads(done.stdout))


def overhead_shares(profile: Any) -> dict[str, float]:
    """Of the last phase of `profile --json`: overhead is a mapping, or a list of name and seconds with all there is."""
    phases = profile["phases"] if isinstance(profile, dict) else profile
    rows, ops = phases[-1]["overhead"], phases[-1]["ops"]
    if isinstance(rows, dict):
        found, total = rows, sum(rows.values()) + sum(op["seconds"] for op in ops)
    else:
        found = {row["name"]: row["seconds"] for row in rows}
        total = sum(found.values())
    kinds = ("barrier", "dispatch", "launch", "thread wake-up")
    return {name: seconds / total for name, seconds in found.items() if name.startswith(kinds)}


if __name__ == "__main__":
    sys.exit(main())
