"""Every op, type and shape on the CPU: bench_ops.py [--op MUL_MAT] [--type Q4_0] [--tokens 1] [-t 2].

Shapes are those of real models. Shapes that fit into memory together take turns, and the machine's peaks (reading
memory; int8 and f32 products in registers) are measured in the same rounds; medians. `share` is the part of the time
that the op would take at the peak of what bounds it; above 1 where operands are in a cache. Attention counts scores
that its mask hides.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import checkout  # noqa: F401
from bench_report import (
    command_line,
    commit,
    complain,
    exit_code,
    machine,
    number,
    percent,
    table,
    write_result,
)
from ops_cases import Shape, shapes
from ops_run import Running, Work, has_kernel, prepare

from graphsched.backends.cpu.peaks import measured_peaks
from graphsched.errors import OptionError
from graphsched.graph.opdef import OPS
from graphsched.session.options import SessionOptions

Peaks = Mapping[int, list[dict[str, float]]]  # by number of threads, one of each a round
ARITHMETIC: Final = {"int8": "int8"}  # all other kinds are computed in f32


@dataclass(frozen=True)
class Row:
    """One measurement. share: of the peak of `bound`, which is memory, int8 or f32."""

    op: str
    type: str
    model: str
    shape: str
    tokens: int
    threads: int
    us: float
    gop_s: float
    gb_s: float
    share: float
    bound: str

    @property
    def cells(self) -> list[str]:
        numbers = [number(self.us, 2), number(self.gop_s), number(self.gb_s), percent(self.share), self.bound]
        return [self.op, self.type, self.model, self.shape, str(self.tokens), str(self.threads), *numbers]


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: measure(parse(argv), argv))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--op", action="append", default=[], help="ops by name, lists and repeated (default: all)")
    p.add_argument("--type", action="append", default=[], help="tensor types, likewise (default: all)")
    p.add_argument("--model", action="append", default=[], help="shapes whose model's name has this in it")
    p.add_argument("--tokens", default="1,512", help="tokens at once (default: 1,512)")
    p.add_argument("-t", "--threads", default="", help="numbers of threads (default: 1 and all cores)")
    p.add_argument("-r", "--rounds", type=int, default=5, help="rounds (default: 5)")
    p.add_argument("--memory", type=float, default=2.0, metavar="GB", help="operands at a time (default: 2)")
    p.add_argument("--json", action="store_true", help="plain data instead of a table")
    p.add_argument("--out", type=Path, help="write the result as a section of this page")
    p.add_argument("--title", default="Ops on the CPU", help="title of that section")
    return p.parse_args(argv)


def measure(options: argparse.Namespace, argv: Sequence[str]) -> int:
    if options.rounds < 1:
        raise OptionError(f"-r {options.rounds}: at least one round is needed")
    threads = integers("-t", options.threads) or sorted({1, SessionOptions().threads})
    chosen = list(selected(options))
    rows: list[Row] = []
    peaks: dict[int, list[dict[str, float]]] = {}
    for batch in batches(chosen, options.memory * 1e9, len(threads)):
        complain(
            f"{len(rows) // len(threads)} of {len(chosen)} shapes; {batch[0].shape.op.name} {batch[0].shape.type}"
        )
        rows += measured(batch, threads, options.rounds, peaks)
    if options.json:
        about = {"machine": machine(), "commit": commit(), "command": command_line("bench_ops.py", argv)}
        print(json.dumps({**about, "peaks": peaks, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print("\n".join([as_table(rows), "", *peak_lines(peaks)]))
    write_result(options, "bench_ops.py", argv, [as_table(rows), *peak_lines(peaks)])
    return 0


def integers(flag: str, text: str) -> list[int]:
    try:
        found = [int(word) for word in text.split(",") if word]
    except ValueError:
        raise OptionError(f"{flag} {text}: numbers with commas are expected") from None
    if any(n < 1 for n in found):
        raise OptionError(f"{flag} {text}: 1 is the least")
    return found


def selected(options: argparse.Namespace) -> Iterator[Shape]:
    """Shapes that the flags ask for and that the CPU has kernels for."""
    known = {**{op.name: op.name for op in OPS}, **{d.name.upper(): op.name for op, d in OPS.items()}}
    ops = {known.get(name, "") or unknown("--op", name, known) for name in names(options.op)}
    everything = [s for n in integers("--tokens", options.tokens) for s in shapes(n)]
    types = set(names(options.type))
    for name in types - {s.type for s in everything}:
        unknown("--type", name, {s.type: "" for s in everything})
    found = [
        s
        for s in everything
        if (not ops or s.op.name in ops)
        and (not types or s.type in types)
        and (not options.model or any(m.lower() in s.model.lower() for m in options.model))
        and has_kernel(s)
    ]
    if not found:
        raise OptionError("no shape fits these flags, or none has a kernel on the CPU")
    yield from found


def names(given: Iterable[str]) -> list[str]:
    return [word.strip().upper() for text in given for word in text.split(",") if word.strip()]


def unknown(flag: str, name: str, known: Iterable[str]) -> str:
    raise OptionError(f"{flag} {name}: there are {', '.join(sorted(known))}")


def batches(chosen: Iterable[Shape], room: float, n_threads: int) -> Iterator[list[Work]]:
    """Shapes that take turns: as many as fit into the memory given, at least one."""
    batch: list[Work] = []
    for shape in chosen:
        work = prepare(shape)
        if batch and (sum(w.memory for w in batch) + work.memory) * n_threads > room:
            yield batch
            batch = []
        batch.append(work)
    if batch:
        yield batch


def measured(
    batch: Sequence[Work], threads: Sequence[int], rounds: int, peaks: dict[int, list[dict[str, float]]]
) -> Iterator[Row]:
    """Rounds in which each work runs once on each number of threads, beside the peaks."""
    running = [Running(work, n) for work in batch for n in threads]
    times: list[list[float]] = [[] for _ in running]
    here: dict[int, list[dict[str, float]]] = {n: [] for n in threads}
    for _ in range(rounds):
        for n in threads:
            here[n].append(measured_peaks(n))
        for one, own in zip(running, times, strict=True):
            own.append(one.microseconds())
    for n, found in here.items():
        peaks.setdefault(n, []).extend(found)
    for one, own in zip(running, times, strict=True):
        yield row_of(one.work, one.threads, median(own), here[one.threads])


def row_of(work: Work, threads: int, us: float, peaks: Sequence[Mapping[str, float]]) -> Row:
    s, arithmetic = work.shape, ARITHMETIC.get(work.kind, "f32")
    memory, products = (median(p[kind] for p in peaks) for kind in ("bandwidth", arithmetic))
    bounds = {"memory": work.nbytes / memory, arithmetic: work.flops / products}
    bound = max(bounds, key=lambda name: bounds[name])
    gop_s, gb_s = work.flops / us / 1e3, work.nbytes / us / 1e3
    name = s.op.name
    return Row(
        name, s.type, s.model, s.text, s.tokens, threads, us, gop_s, gb_s, bounds[bound] * 1e6 / us, bound
    )


def as_table(rows: Sequence[Row]) -> str:
    header = ["op", "type", "model", "shape", "tokens", "threads", "µs", "GOP/s", "GB/s", "share", "of"]
    return table(header, [row.cells for row in rows], left=4)


def peak_lines(peaks: Peaks) -> list[str]:
    lines = []
    for n, rounds in sorted(peaks.items()):
        memory, int8, f32 = (median(p[kind] for p in rounds) / 1e9 for kind in ("bandwidth", "int8", "f32"))
        rates = f"reads {number(memory)} GB/s, int8 {number(int8)} GOP/s, f32 {number(f32)} GOP/s"
        lines.append(f"{n} thread{'s' * (n > 1)}: {rates} (medians of {len(rounds)} rounds).")
    return lines


if __name__ == "__main__":
    sys.exit(main())
