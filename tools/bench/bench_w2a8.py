"""W2A8 against BF16 on the card that is here: python tools/bench/bench_w2a8.py [--tokens 1,16,512] [--device N].

First the kernels' cases, bit for bit; then the products of BitNet 3B and 2B-4T with weights that no cache holds, the
share of the copy bandwidth measured in the same run, and a token of 2B-4T (products and norms, one CUDA graph). BF16
is cuBLAS's, or without it (pip install 'graphsched[cublas]') this project's own mat-vec. Without a card: the cases
on the emulator, or the packing in numpy. Runs from a copied tree without installation.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools" / "bench"), str(ROOT / "tools" / "gpu")]
import graphsched  # noqa: E402

graphsched.__path__.append(str(ROOT))  # graphsched.backends, where the tree's symlink did not travel

import numpy as np  # noqa: E402
from cuda_emu.emulator import EmulatedTarget, compiler  # noqa: E402
from cuda_emu.values import Target, error  # noqa: E402
from cuda_emu.w2a8s import SHAPES, expected, matrix, quantised_tokens, w2a8s  # noqa: E402

from graphsched.backends.cuda import driver  # noqa: E402
from graphsched.backends.cuda.families import matmul, norm, w2a8  # noqa: E402
from graphsched.backends.cuda.launch import ternary_tiles  # noqa: E402
from graphsched.backends.cuda.launch.call import Call  # noqa: E402

LAYERS, WIDTH, VOCAB = 30, 2560, 128256  # of 2B-4T, whose layers are the first four shapes
EPS = 1e-5


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 1 where a check fails."""
    options = parse(argv)
    reason = driver.probe()
    if reason:
        print(f"No timings, because no GPU can be used: {reason}.")
        return without_a_card(options.small)
    from gpu_bench import Bench
    from gpu_target import GpuTarget

    target = GpuTarget(options.device)
    if not checked(target, target.gpu.name):
        return 1
    report(Versus(Bench(target, options.small)), options.tokens)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="Time W2A8 products against BF16 on a GPU.")
    p.add_argument("--tokens", type=lambda s: [int(n) for n in s.split(",")], default=[1, 4, 16, 512])
    p.add_argument("--device", type=int, default=0)
    p.add_argument("--small", action="store_true", help="tiny shapes, to rehearse the script")
    return p.parse_args(argv)


# ---- correctness


def without_a_card(small: bool) -> int:
    if compiler():
        return 0 if checked(EmulatedTarget(), "the emulator") else 1
    rng, good = np.random.default_rng(8), 0
    shapes = sorted(SHAPES)[: 2 if small else None]
    for rows, k, parts in shapes:
        weights, scales = matrix(rows, k, parts, rng)
        q, ds = quantised_tokens(rng.standard_normal((1, k)).astype(np.float32))
        unpacked = ternary_tiles.unpack(ternary_tiles.pack(weights), rows, k)
        good += np.array_equal(expected(unpacked, scales, q, ds), expected(weights, scales, q, ds))
    print(f"{good} of {len(shapes)} shapes are exact in numpy (g++, which the emulator needs, is not here)")
    return 0 if good == len(shapes) else 1


def checked(target: Target, where: str) -> bool:
    """Every case of the kernels; products are compared for equality."""
    cases, bad = list(w2a8s()), []
    for seed, case in enumerate(cases):
        got, want, tolerance = case.run(target, np.random.default_rng(seed))
        if error(got, want) > tolerance:
            bad.append(case.name)
    print(
        f"{len(cases) - len(bad)} of {len(cases)} W2A8 checks passed on {where}{': not ' * bool(bad)}{', '.join(bad)}"
    )
    return not bad


# ---- timings


class Versus:
    """The same products both ways, on the buffers of gpu_bench.Bench."""

    def __init__(self, bench: Any) -> None:
        self.bench, self.sms = bench, bench.target.gpu.multiprocessors
        self.cublas = bench.cublas
        self.base = int(bench.weights.handle)

    @property
    def bf16_name(self) -> str:
        return "cuBLAS" if self.cublas else "own mat-vec"

    def shapes(self) -> list[tuple[int, int]]:
        return [(64, 512), (32, 768)] if self.bench.small else [(rows, k) for rows, k, _ in SHAPES]

    def w2a8(self, w: int, tokens: int, rows: int, k: int) -> Call:
        b = self.bench
        return w2a8.product(w, b.ds, b.x, b.ds, b.y, tokens, rows, k, self.sms)

    def time_w2a8(self, tokens: int, rows: int, k: int) -> float:
        nbytes = -(-ternary_tiles.nbytes(rows, k) // 256) * 256
        us: float = self.bench.calls(lambda w: self.w2a8(w, tokens, rows, k), nbytes)
        return us

    def time_bf16(self, tokens: int, rows: int, k: int) -> float | None:
        """None where only cuBLAS would be fair: many tokens."""
        b, nbytes = self.bench, 2 * rows * k
        if self.cublas is None:
            make = partial(matmul.matvec_floats, "bf16")
            own = lambda w: make(w, b.x, b.y, tokens, rows, k, k, self.sms)  # noqa: E731
            return b.calls(own, nbytes) if tokens <= 8 else None
        places = [self.base + i * nbytes for i in range(max(1, min(32, b.room // nbytes)))]

        def work(stream: Any) -> None:
            for w in places:
                self.bf16(stream, w, tokens, rows, k)

        self.warm(work)
        us: float = b.time(work, len(places))
        return us

    def bf16(self, stream: Any, w: int, tokens: int, rows: int, k: int) -> None:
        b = self.bench
        if self.cublas:
            x, y = int(b.x.handle), int(b.y.handle)
            self.cublas.prepared("bf16", x, w, y, (tokens, rows, k), rows)(stream)
        else:
            b.target.launch(
                matmul.matvec_floats("bf16", w, b.x, b.y, tokens, rows, k, k, self.sms), stream, True
            )

    def warm(self, work: Callable[[Any], None]) -> None:
        """Once outside a capture, in which nothing may be loaded."""
        work(self.bench.stream)
        self.bench.stream.sync()

    def token(self, is_ternary: bool) -> float:
        """Microseconds of 2B-4T's products and norms for one token; the output matrix is BF16 both times."""
        shapes = self.shapes()[:4]
        layers, vocab, width = (1, 256, 512) if self.bench.small else (LAYERS, VOCAB, WIDTH)

        def work(stream: Any) -> None:
            at = 0
            for rows, k in shapes * layers:
                self.normed(stream, k, is_ternary)
                nbytes = ternary_tiles.nbytes(rows, k) if is_ternary else 2 * rows * k
                at = 0 if at + nbytes > self.bench.room else at
                if is_ternary:
                    self.bench.target.launch(self.w2a8(self.base + at, 1, rows, k), stream, True)
                else:
                    self.bf16(stream, self.base + at, 1, rows, k)
                at += nbytes
            self.normed(stream, width, False)
            self.bf16(stream, self.base, 1, vocab, width)

        self.warm(work)
        us: float = self.bench.time(work, 1)
        return us

    def normed(self, stream: Any, k: int, is_ternary: bool) -> None:
        """The norm before a product: with the rounding to int8, or of floats."""
        b = self.bench
        call = (
            w2a8.quantize(b.x, b.x, b.y, b.ds, 1, k, k, EPS)
            if is_ternary
            else norm.rms_norm(b.x, b.x, b.y, 1, k, k, k, EPS)
        )
        b.target.launch(call, stream, True)


def report(v: Versus, counts: Sequence[int]) -> None:
    """Tables in Markdown."""
    copy, gpu = v.bench.copy_rate, v.bench.target.gpu.name
    print(f"\n{gpu}: copies reach {copy:,.0f} GB/s (read + write). BF16: {v.bf16_name}.", end=" ")
    print("" if v.cublas else "cuBLAS is not installed (pip install 'graphsched[cublas]').")
    print("\n| rows × columns | tokens | W2A8 µs | GB/s | of copy | BF16 µs | of copy | BF16 / W2A8 |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for tokens in counts:
        for rows, k in v.shapes():
            print(line(v, tokens, rows, k), flush=True)
    bf16, ternary = v.token(False), v.token(True)
    print(
        f"\n2B-4T, products and norms of one token in one graph: BF16 {bf16:,.0f} µs ({1e6 / bf16:,.0f} tokens/s),"
    )
    print(f"W2A8 {ternary:,.0f} µs ({1e6 / ternary:,.0f} tokens/s): {bf16 / ternary:.2f} times as fast")


def line(v: Versus, tokens: int, rows: int, k: int) -> str:
    """One row; shares count the weights' bytes only."""
    us, slow, copy = v.time_w2a8(tokens, rows, k), v.time_bf16(tokens, rows, k), v.bench.copy_rate * 1e3
    small, large = ternary_tiles.nbytes(rows, k), 2 * rows * k
    head = f"| {rows} × {k} | {tokens} | {us:.2f} | {small / us / 1e3:,.0f} | {small / us / copy:.0%} |"
    return head + (f" {slow:.2f} | {large / slow / copy:.0%} | {slow / us:.2f} |" if slow else " | | |")


if __name__ == "__main__":
    sys.exit(main())
