"""Load on servers with OpenAI's interface: ours, llama.cpp's and ik_llama.cpp's.

    python tools/bench/serve_load.py http://127.0.0.1:8080 --clients 64 --seconds 60 --hang-up 0.33 --check
    python tools/bench/serve_load.py --slots 1,2,4,8 --seconds 20 --rounds 3 -m model.gguf \\
        --server "ours=graphsched serve -m {model} -np {slots} -c {ctx} --port {port} -t 2" \\
        --server "llama.cpp=llama-server -m {model} -np {slots} -c {ctx} --port {port} -t 2"

The first form tells tokens/s, times to the first token, how many finished answers are right (equal to the same answer
alone: the server has to be deterministic), slots that are still at work behind it, and the memory of `--pid`. The
second one starts servers in turn, each with as many clients as slots. `--long N` measures the time to the first token
of a short request while a prompt of N words is read.
"""

import argparse
import asyncio
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from load_clients import Prompt, Seen, Work, alone, first_beside_long, load, prompts


@dataclass(frozen=True)
class Report:
    """What came of a load. wrong: finished answers that differ from the answer alone; -1: not checked."""

    seconds: float
    requests: int
    finished: int
    hung_up: int
    errors: tuple[str, ...]
    tokens_per_second: float
    first_p50: float
    first_p95: float
    wrong: int
    leaked: int

    def __str__(self) -> str:
        right = "not checked" if self.wrong < 0 else f"{self.finished - self.wrong} of {self.finished} right"
        return (
            f"{self.requests} requests in {self.seconds:.1f} s: {self.finished} finished ({right}), "
            f"{self.hung_up} hung up, {len(self.errors)} errors; {self.tokens_per_second:.1f} tokens/s; "
            f"first token p50 {self.first_p50 * 1e3:.1f} ms, p95 {self.first_p95 * 1e3:.1f} ms; "
            f"{self.leaked} slots still at work"
        )


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """The median, and the value below which 95 of 100 lie."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    cuts = quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[94]


async def report(url: str, work: Work, key: str = "", check: bool = False) -> Report:
    """Loads a server, then asks alone what there was to ask."""
    expected = await alone(url, prompts(work), key) if check else {}
    seen, seconds = await load(url, work, key)
    finished = [s for s in seen if not s.hung_up and not s.error]
    p50, p95 = percentiles([s.first for s in seen if s.first is not None])
    wrong = sum(is_wrong(s, expected) for s in finished) if check else -1
    return Report(
        seconds,
        len(seen),
        len(finished),
        sum(s.hung_up for s in seen),
        tuple(s.error for s in seen if s.error),
        sum(s.tokens for s in finished) / seconds,
        p50,
        p95,
        wrong,
        await leaked(url, key),
    )


def is_wrong(seen: Seen, expected: Mapping[Prompt, str]) -> bool:
    """Whether an answer is not the one that its prompt has alone, or has another number of tokens."""
    return seen.text != expected[seen.prompt] or seen.tokens != seen.prompt.n


async def leaked(url: str, key: str = "", seconds: float = 5.0) -> int:
    """Slots that are at work when nobody asks any more, after a while in which the last ones may end."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        end = time.monotonic() + seconds
        while True:
            answer = await http.get("/slots")
            busy = sum(map(is_busy, answer.json())) if answer.status_code == 200 else 0
            if not busy or time.monotonic() > end:
                return busy
            await asyncio.sleep(0.05)


def is_busy(slot: Mapping[str, Any]) -> bool:
    """Whether a slot is at work, as llama.cpp tells it, or ik_llama.cpp, whose 0 is idle."""
    return bool(slot.get("is_processing", slot.get("state", 0)))


def memory(pid: int) -> float:
    """MiB that a process has in memory; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


@contextmanager
def started(command: str, **values: object) -> Iterator[str]:
    """A server that is ended with the block: its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = shlex.split(command.format(port=port, **values))
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(argv, cwd=folder, **quiet) as process,
    ):  # some write logs there
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(url, process, argv[0])
            yield url
        finally:
            process.terminate()


def wait_for(url: str, process: "subprocess.Popen[bytes]", name: str) -> None:
    """Returns when a server is healthy."""
    while process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    sys.exit(f"{name} ended with {process.returncode}")


def sweep(options: argparse.Namespace) -> None:
    """Tokens/s of each server with each number of slots, rounds in turn."""
    servers = dict(text.split("=", 1) for text in options.server)
    slots = [int(n) for n in options.slots.split(",")]
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(options.rounds):
        for n in slots:
            for name, command in servers.items():
                with started(
                    command, model=Path(options.model).resolve(), slots=n, ctx=options.ctx * n
                ) as url:
                    work = work_of(options, n)
                    asyncio.run(load(url, Work(n, 1.0, work.words, work.answers)))
                    result = asyncio.run(report(url, work))
                found.setdefault((name, n), []).append(result.tokens_per_second)
                print(f"{name}, {n} slots: {result}", file=sys.stderr, flush=True)
    print("| server | " + " | ".join(f"{n} slots" for n in slots) + " |")
    print("|---|" + "---:|" * len(slots))
    for name in servers:
        print(f"| {name} | " + " | ".join(f"{mean(found[name, n]):.1f}" for n in slots) + " |")


def work_of(options: argparse.Namespace, clients: int) -> Work:
    """What clients are to do."""
    lengths = (tuple(map(int, text.split("-"))) for text in (options.words, options.answers))
    words, answers = ((low, high) for low, high in lengths)
    return Work(clients, options.seconds, words, answers, options.hang_up, options.prompts, options.seed)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("url", nargs="?", help="of a server that runs already")
    made.add_argument("--key", default="", help="its API key")
    made.add_argument("--clients", type=int, default=16)
    made.add_argument("--seconds", type=float, default=10)
    made.add_argument("--words", default="4-200", help="of a prompt, from-to")
    made.add_argument("--answers", default="4-64", help="tokens of an answer, from-to")
    made.add_argument("--hang-up", type=float, default=0.0, help="part of the clients that go away early")
    made.add_argument("--prompts", type=int, default=32, help="different ones")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--check", action="store_true", help="compare answers with those alone")
    made.add_argument("--pid", type=int, help="process whose memory is told")
    made.add_argument("--long", type=int, help="words of a prompt beside which a short one comes")
    made.add_argument("--server", action="append", default=[], help="NAME=COMMAND with {port} and {slots}")
    made.add_argument("--slots", default="1,2,4,8")
    made.add_argument("--rounds", type=int, default=1)
    made.add_argument("--ctx", type=int, default=1024, help="tokens of context for a slot")
    made.add_argument("-m", "--model", default="")
    return made


def main() -> None:
    """Runs what the flags say."""
    options = parser().parse_args()
    if options.server:
        sweep(options)
        return
    before = memory(options.pid) if options.pid else 0.0
    if options.long:
        times = asyncio.run(first_beside_long(options.url, options.long, 5, options.key))
        print(f"first token beside a prompt of {options.long} words: {[f'{t * 1e3:.1f} ms' for t in times]}")
        return
    print(asyncio.run(report(options.url, work_of(options, options.clients), options.key, options.check)))
    if options.pid:
        print(f"memory {before:.1f} MiB before, {memory(options.pid):.1f} MiB behind")


if __name__ == "__main__":
    main()
