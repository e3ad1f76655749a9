"""How fast weights are packed for a GPU: bench_repack.py [--type Q4_K] [-m FILE [--cold]]; needs no GPU.

Without a file, random blocks of every type: on one thread into memory, and on all threads through the slots that
uploads are sent from. With one, its matrices through the slots, and beside that the file only read; --cold takes it
out of the page cache before each round, as far as the system does that. Nothing is sent: the link that takes the
slots is done at once. GB are of file bytes; rounds take turns; medians. GB in a second of CPU time, of all threads
together, say what the work costs, also while other programs run.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import checkout  # noqa: F401
import numpy as np
from bench_report import command_line, commit, complain, exit_code, machine, number, table, write_result
from numpy.typing import NDArray

from graphsched.backends.cuda.launch.weights import TYPES
from graphsched.backends.cuda.packing.pieces import Packing, packing
from graphsched.backends.cuda.packing.threads import count
from graphsched.backends.cuda.stream.upload import SLOT, Uploads
from graphsched.errors import OptionError
from graphsched.gguf.loader import open_model
from graphsched.graph.tensor import TensorType
from graphsched.types import dtypes

Raw = NDArray[np.uint8]
K, CHUNK = 4096, 4 << 20


class Nowhere:
    """A link without an end, as fast as can be."""

    def send(self, to: int, host: int, nbytes: int) -> None:
        pass

    def record(self) -> "Nowhere":
        return self

    def sync(self) -> None:
        pass


@dataclass(frozen=True)
class Row:
    """What was packed or read, by how many threads."""

    what: str
    threads: int
    mb: float
    gb_s: float
    gb_cpu_s: float


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    return exit_code(lambda: report(parse(argv), argv))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--type", action="append", default=[], help="tensor types, repeated (default: all)")
    p.add_argument("--mb", type=float, default=256.0, help="file bytes of each type, in MB (default: 256)")
    p.add_argument("-m", "--model", type=Path, help="a GGUF file instead of random blocks")
    p.add_argument("--cold", action="store_true", help="with a file: not from the page cache")
    p.add_argument("-r", "--rounds", type=int, default=5, help="rounds (default: 5)")
    p.add_argument("--json", action="store_true", help="plain data instead of a table")
    p.add_argument("--out", type=Path, help="write the result as a section of this page")
    p.add_argument("--title", default="Packing", help="title of that section")
    return p.parse_args(argv)


def report(options: argparse.Namespace, argv: Sequence[str]) -> int:
    if options.rounds < 1:
        raise OptionError(f"-r {options.rounds}: at least one round is needed")
    rows = list(of_file(options) if options.model else of_types(options))
    cells = [
        (r.what, str(r.threads), number(r.mb, 0), number(r.gb_s, 2), number(r.gb_cpu_s, 2)) for r in rows
    ]
    text = table(["", "threads", "MB of file", "GB/s", "GB/CPU s"], cells)
    if options.json:
        about = {"machine": machine(), "commit": commit(), "command": command_line("bench_repack.py", argv)}
        print(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print(text)
    write_result(options, "bench_repack.py", argv, [text])
    return 0


# ---- random blocks


def of_types(options: argparse.Namespace) -> Iterator[Row]:
    chosen = [name.upper() for name in options.type] or [t.name for t in TYPES]
    for name in chosen:
        if name not in {t.name for t in TYPES}:
            raise OptionError(f"--type {name}: there are {', '.join(t.name for t in TYPES)}")
    everything = np.random.default_rng(1).integers(0, 256, int(options.mb * 1e6), dtype=np.uint8)
    for name in chosen:
        complain(name)
        yield from of_type(dtypes.by_name(name), everything, options.rounds)


def of_type(dtype: dtypes.DType, everything: Raw, rounds: int) -> Iterator[Row]:
    rows = everything.size // dtype.row_bytes(K)
    if rows < 1:
        raise OptionError(f"--mb: not one row of {K} weights of {dtype.name}")
    shapes = (
        {"": (1, rows, K), ", tiles": (rows, K)} if dtype.name in ("IQ1_BN", "IQ2_BN") else {"": (rows, K)}
    )
    for suffix, shape in shapes.items():
        type = TensorType(dtype, shape)
        raw, how = everything[: type.nbytes], packing(type)
        how.compile()
        out = touched(how.nbytes)
        uploads = Uploads(Nowhere(), touched)
        one, all_threads = in_turns(
            [partial(alone, how, raw, out), partial(through_slots, uploads, raw, how)], rounds
        )
        yield row(f"{dtype.name}{suffix}", 1, raw.size, one)
        yield row(f"{dtype.name}{suffix}, through slots", count(), raw.size, all_threads)


def touched(nbytes: int) -> Raw:
    """Memory whose pages are there."""
    return np.ones(nbytes, np.uint8)


def alone(how: Packing, raw: Raw, out: Raw) -> None:
    for piece in how.pieces(SLOT):
        how.write(piece, raw.ctypes.data, [out.ctypes.data + run.at for run in piece.runs])


def through_slots(uploads: Uploads, raw: Raw, how: Packing) -> None:
    uploads.send(0, raw, how)
    uploads.settle()


@dataclass
class Spent:
    """Seconds of rounds, and of the CPU's time in them."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def on(self, run: Callable[[], object]) -> None:
        wall, cpu = perf_counter(), process_time()
        run()
        self.wall.append(perf_counter() - wall)
        self.cpu.append(process_time() - cpu)


def in_turns(
    ways: Sequence[Callable[[], object]], rounds: int, before: Callable[[], None] = lambda: None
) -> list[Spent]:
    spent = [Spent() for _ in ways]
    for _ in range(rounds):
        for run, own in zip(ways, spent, strict=True):
            before()
            own.on(run)
    return spent


def row(what: str, threads: int, nbytes: int, spent: Spent) -> Row:
    wall, cpu = median(spent.wall), median(spent.cpu)
    return Row(what, threads, nbytes / 1e6, nbytes / wall / 1e9, nbytes / cpu / 1e9)


# ---- a file


def of_file(options: argparse.Namespace) -> Iterator[Row]:
    path, how = options.model, "cold" if options.cold else "warm"
    uploads = Uploads(Nowhere(), touched)
    with open_model(path) as model:
        size = path.stat().st_size
        weights = [TensorType(t.dtype, t.shape) for t in model.tensors.values() if t.dtype in TYPES]
    for type in weights:
        packing(type).compile()
    before = partial(forget, path) if options.cold else lambda: None
    alone, both = in_turns([partial(read, path), partial(load, uploads, path)], options.rounds, before)
    yield row(f"{path.name}, {how}, only read", 1, size, alone)
    yield row(f"{path.name}, {how}, through slots", count(), sum(t.nbytes for t in weights), both)


def read(path: Path) -> None:
    """The whole file, in pieces, into one buffer."""
    buffer = bytearray(CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def load(uploads: Uploads, path: Path) -> None:
    """A file's weights through the slots, as a session sends them."""
    with open_model(path) as model:
        for t in model.tensors.values():
            if t.dtype in TYPES:
                uploads.send(0, model.raw(t.name), packing(TensorType(t.dtype, t.shape)))
        uploads.settle()


def forget(path: Path) -> None:
    """Takes a file out of the page cache."""
    if not hasattr(os, "posix_fadvise"):
        raise OptionError("--cold: this system cannot take a file out of its cache")
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


if __name__ == "__main__":
    sys.exit(main())
