"""What the benchmark tools share: this machine in words, tables, and sections of a page of docs/benchmarks."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Final

from checkout import ROOT

from graphsched.errors import Error, OptionError
from graphsched.gguf.atomic import replacing

NONE: Final = "–"


def machine() -> str:
    """Processor, cores, memory and the versions that matter, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "llvmlite"))
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, {libraries}"
    return f"{_cpu()}, {cores} cores, {_memory_gb()} GB memory, {system}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory_gb() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f}"
    except (AttributeError, ValueError, OSError):
        return "?"


def commit() -> str:
    """The checkout's commit, with a mark if files differ from it."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        return head + (" with local changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def command_line(tool: str, argv: Sequence[str]) -> str:
    """What was typed; files and programs by their names, as their folders mean nothing elsewhere."""
    return f"python tools/bench/{tool} " + shlex.join(
        re.sub(r"(?<![^\s=])[^\s=]*/(?=[^\s/]+)", "", w) for w in argv
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, padded so that it reads well as text; the first `left` columns are to the left."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def joined(cells: Sequence[str]) -> str:
        padded = (
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(
        ["| " + " | ".join(rule) + " |" if line is None else joined(line) for line in _ruled(lines)]
    )


def _ruled(lines: list[list[str]]) -> list[list[str] | None]:
    return [lines[0], None, *lines[1:]]


def middle(values: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return median(values) if values else None


def number(value: float | None, digits: int = 1) -> str:
    """With commas from a thousand on, and a dash for None."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.0f} %"


def exit_code(work: Callable[[], int]) -> int:
    """What a tool ends with: an error is one sentence and 2."""
    try:
        return work()
    except Error as e:
        complain(f"error: {e}")
        return 2


def write_result(options: Any, tool: str, argv: Sequence[str], parts: Sequence[str]) -> None:
    """A section, if --out names a page: on what machine, by what command, and what came out."""
    if options.out:
        head = f"{machine()}. Commit {commit()}.\n\n```\n{command_line(tool, argv)}\n```"
        write_section(options.out, options.title, "\n\n".join([head, *parts]))


def write_section(page: Path, title: str, body: str) -> None:
    """Puts `## title` with its body into a page, in place of the section of that title or behind all others."""
    if page.suffix != ".md":
        raise OptionError(f"{page}: a section goes into a .md file")
    text = page.read_text(encoding="utf-8") if page.is_file() else f"# {page.stem}\n"
    section = f"## {title}\n\n{body.strip()}\n"
    found = re.search(rf"^## {re.escape(title)}\n.*?(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    if found:
        rest = text[found.end() :]
        text = text[: found.start()] + section + ("\n" + rest if rest else "")
    else:
        text = text.rstrip("\n") + "\n\n" + section
    with replacing(page) as file:
        file.write(text.encode())


def complain(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
