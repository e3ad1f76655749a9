"""Timings of the CUDA kernels on the card that is there; gpu_check.py calls this."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import gpu_calls
import numpy as np
from gpu_target import GpuTarget

from graphsched.backends.cuda import driver
from graphsched.backends.cuda.families import attention, gemm, matmul, recurrent
from graphsched.backends.cuda.families.decode import decode
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.layout import LAYOUTS
from graphsched.types.extents import CELL_BLOCK

SHAPES = ((4096, 14336), (14336, 4096), (8192, 28672))  # rows × k of a mat-vec
BATCHES = (64, 128, 256, 512, 1024, 2048)  # tokens
GEMMS = ((512, 14336, 4096), (512, 4096, 14336), (512, 28672, 8192), (2048, 14336, 4096))
CACHES = (
    (32, 8, 128, 4096),
    (32, 8, 128, 32768),
    (64, 8, 128, 32768),
)  # heads, key-value heads, width, positions
TYPES = (*LAYOUTS, "f16", "bf16", "f32")


@dataclass(frozen=True)
class Row:
    """One measurement: `rate` in GB/s or TFLOP/s, `share` of the peak measured in the same run."""

    what: str
    shape: str
    us: float
    rate: float
    unit: str
    share: float

    def dict(self) -> dict[str, Any]:
        return asdict(self)


class Bench:
    """Buffers, and how time is taken: launches captured in a graph, replayed between two events, median."""

    def __init__(self, target: GpuTarget, small: bool) -> None:
        self.target, self.small, self.stream = target, small, target.stream
        self._rooms: list[Any] = []
        self.room = 1 << (22 if small else 32)
        self.weights = self._random(self.room)
        self.x, self.y = (
            self._random(1 << 18 if small else 1 << 26),
            self._room(1 << 18 if small else 1 << 28),
        )
        self.ds = self._room(1 << 18 if small else 1 << 24)
        gpu_calls.upload(self.ds, np.full(self.ds.size // 4, 0.01, np.float32), self.stream)
        self.copy_rate = self._copy()
        self.flops = 0.0
        found = driver.cublas_version()
        self.cublas = driver.Cublas(int(self._room(driver.CUBLAS_ROOM).handle)) if found else None

    def _room(self, nbytes: int) -> Any:
        self._rooms.append(gpu_calls.allocate(self.target.gpu, nbytes, self.stream))
        return self._rooms[-1]

    def close(self) -> None:
        """Gives the memory to whoever comes next."""
        for room in self._rooms:
            room.close(self.stream)
        self.stream.sync()

    def _random(self, nbytes: int) -> Any:
        """Random halves of sane size: any bit pattern is a valid weight, but NaN would time differently."""
        out = self._room(nbytes)
        tile = np.random.default_rng(0).uniform(-1, 1, min(nbytes, 1 << 25) // 2).astype(np.float16)
        for at in range(0, nbytes, tile.nbytes):
            gpu_calls.upload(out, tile[: (nbytes - at) // 2], self.stream, at)
        return out

    def time(self, work: Callable[[Any], None], count: int, repeats: int = 9) -> float:
        """Microseconds of one of the `count` launches that `work` makes."""
        graph = driver.captured(self.stream, work)
        driver.replay(graph, self.stream)
        times = []
        for _ in range(2 if self.small else repeats):
            begin = driver.record(self.stream, timed=True)
            driver.replay(graph, self.stream)
            end = driver.record(self.stream, timed=True)
            end.sync()
            times.append(end - begin)
        driver.discard(graph)
        return float(np.median(times)) * 1e3 / count

    def calls(self, make: Callable[[int], Call], nbytes: int, pdl: bool = True) -> float:
        """Time of make(address), rotating over as many weight buffers as exceed the L2 cache many times."""
        copies = max(1, min(32, self.room // nbytes, (1 << 30) // nbytes + 2))
        calls = [make(int(self.weights.handle) + i * nbytes) for i in range(copies)] * (
            1 if self.small else 2
        )
        for c in calls:
            self.target.kernel(c)  # compiled and loaded before the capture

        def work(stream: Any) -> None:
            for c in calls:
                self.target.launch(c, stream, pdl)

        return self.time(work, len(calls))

    def _copy(self) -> float:
        half = self.room // 2
        other = self._room(half)
        source = self._random(half)
        us = self.time(lambda s: source.copy_to(other, stream=s), 1)
        return 2 * half / us / 1e3

    def row(self, what: str, shape: str, us: float, nbytes: float = 0, flops: float = 0) -> Row:
        if nbytes:
            return Row(what, shape, us, nbytes / us / 1e3, "GB/s", nbytes / us / 1e3 / self.copy_rate)
        return Row(
            what, shape, us, flops / us / 1e6, "TFLOP/s", flops / us / 1e6 / self.flops if self.flops else 0.0
        )

    # ---- what is measured

    def peaks(self) -> Iterator[Row]:
        """Device-to-device copy; a large bf16 product of cuBLAS."""
        yield self.row(
            "copy (read + write)", f"{self.room >> 21} MiB", self.room / self.copy_rate / 1e3, self.room
        )
        us = self._peer(8192, 8192, 8192)
        if us:
            self.flops = 2 * 8192**3 / us / 1e6
            yield self.row("cuBLAS bf16", "8192x8192x8192", us, flops=2 * 8192**3)

    def _peer(self, m: int, n: int, k: int) -> float | None:
        """Microseconds of cuBLAS's bf16 product, called here or by torch; None where neither is installed."""
        if self.small:
            return None
        if self.cublas is None:
            return torch_us(m, n, k)
        w, x = int(self.weights.handle), int(self.weights.handle) + self.room // 2
        product = self.cublas.prepared("bf16", x, w, int(self.y.handle), (m, n, k), n)
        product(self.stream)  # it loads kernels, which a capture may not

        def work(stream: Any) -> None:
            for _ in range(10):
                product(stream)

        return self.time(work, 10)

    def libraries(self) -> Iterator[Row]:
        """From how many tokens on weights are better decoded in front of cuBLASLt's product than in one's own."""
        if self.cublas is None:
            return
        n, k = (64, 512) if self.small else SHAPES[0][::-1]
        for kind, tokens in product(("q4_0", "q4_k", "q6_k"), (16,) if self.small else BATCHES):
            shape, flops = f"{tokens}x{n}x{k}", 2 * tokens * n * k
            us = self.calls(partial(self._gemm_q8, kind, tokens, n, k), LAYOUTS[kind].nbytes_of(n, k))
            yield self.row(f"gemm_q8 {kind}", shape, us, flops=flops)
            yield self.row(f"decoded {kind}, cuBLASLt", shape, self._decoded(kind, tokens, n, k), flops=flops)

    def _decoded(self, kind: str, tokens: int, n: int, k: int) -> float:
        assert self.cublas is not None
        nbytes, rows = LAYOUTS[kind].nbytes_of(n, k), self._room(2 * n * k)
        copies = max(1, min(8, self.room // nbytes))
        starts = [int(self.weights.handle) + i * nbytes for i in range(copies)]
        given = int(self.x.handle), int(rows.handle), int(self.y.handle)
        put = self.cublas.prepared("bf16", *given, (tokens, n, k), n)

        def work(stream: Any) -> None:
            for w in starts:
                self.target.launch(decode(kind, w, rows, n, 0, n, k), stream, False)
                put(stream)

        work(self.stream)
        return self.time(work, copies)

    def matvecs(self) -> Iterator[Row]:
        """Bytes are those of the repacked tensor."""
        for kind in TYPES:
            for rows, k in ((64, 512),) if self.small else SHAPES:
                make, nbytes = self._matvec(kind, rows, k)
                yield self.row(f"matvec {kind}", f"{rows}x{k}", self.calls(make, nbytes), nbytes)

    def _matvec(self, kind: str, rows: int, k: int, tokens: int = 1) -> tuple[Callable[[int], Call], int]:
        sms = self.target.gpu.multiprocessors
        if kind in matmul.FLOATS:
            nbytes = rows * k * 16 // matmul.FLOATS[kind]
            return lambda w: matmul.matvec_floats(kind, w, self.x, self.y, tokens, rows, k, k, sms), nbytes
        nbytes = LAYOUTS[kind].nbytes_of(rows, k)
        return lambda w: matmul.matvec(kind, w, self.x, self.ds, self.y, tokens, rows, k, sms), nbytes

    def tokens(self) -> Iterator[Row]:
        """How the mat-vec slows down from 1 to 8 tokens, and what programmatic dependent launch is worth."""
        rows, k = (64, 512) if self.small else SHAPES[0]
        for kind in ("q4_0", "q8_0", "q4_k", "q6_k"):
            for tokens in (2, 4, 8):
                make, nbytes = self._matvec(kind, rows, k, tokens)
                yield self.row(
                    f"matvec {kind}, {tokens} tokens", f"{rows}x{k}", self.calls(make, nbytes), nbytes
                )
            make, nbytes = self._matvec(kind, rows, k)
            yield self.row(f"matvec {kind}, no PDL", f"{rows}x{k}", self.calls(make, nbytes, False), nbytes)

    def gemms(self) -> Iterator[Row]:
        for m, n, k in ((64, 64, 128),) if self.small else GEMMS:
            shape, flops, sms = f"{m}x{n}x{k}", 2 * m * n * k, self.target.gpu.multiprocessors
            chosen = gemm.gemm("bf16", 0, 0, 0, m, n, k, sms).kernel
            for tile in gemm.GEMM_TILES:
                us = self.calls(partial(self._gemm, tile, m, n, k), 2 * n * k)
                star = " *" * chosen.endswith(f"_{tile[0]}_{tile[1]}")
                yield self.row(f"gemm bf16 {tile[0]}x{tile[1]}{star}", shape, us, flops=flops)
            for kind in ("q4_0", "q8_0", "q4_k"):
                us = self.calls(partial(self._gemm_q8, kind, m, n, k), LAYOUTS[kind].nbytes_of(n, k))
                yield self.row(f"gemm_q8 {kind}", shape, us, flops=flops)
            peer = self._peer(m, n, k)
            if peer:
                yield self.row("cuBLAS bf16", shape, peer, flops=flops)

    def _gemm(self, tile: tuple[int, int], m: int, n: int, k: int, w: int) -> Call:
        name, grid = f"gemm_bf16_{tile[0]}_{tile[1]}", (-(-m // tile[0]), -(-n // tile[1]))
        return Call("gemm", (), name, grid, 256, (self.x, w, self.y, m, n, k), gemm.gemm_shared(tile))

    def _gemm_q8(self, kind: str, m: int, n: int, k: int, w: int) -> Call:
        return gemm.gemm_q8(kind, w, self.x, self.ds, self.y, m, n, k)

    def attentions(self) -> Iterator[Row]:
        """The last tokens of one sequence and of eight, cache of keys and values in f16; the time of both kernels."""
        for heads, kv, d, n in ((8, 2, 64, 64),) if self.small else CACHES:
            h = attention.Heads(heads, kv, d, d, 2 * kv * d, 2 * d, 2 * kv * d, 2 * d)
            for sequences in (1, 8):
                cells, sms = n * sequences, self.target.gpu.multiprocessors
                partials = self._room(4 * attention.partial_floats(h, sequences, cells, sms))
                make = partial(self._attention, h, sequences, cells, *self._mask(sequences, n), partials)
                nbytes = 2 * cells * kv * d * 2
                us = sum(self.calls(partial(make, which), nbytes) for which in (0, 1))
                shape = f"{heads} heads, {kv} kv, {d}, {sequences} × {n} positions"
                yield self.row("attention f16", shape, us, nbytes)

    def prompts(self) -> Iterator[Row]:
        """The last tokens of a prompt, pieces of eight prompts, and a token of each of sixteen sequences."""
        heads, kv, d, n = (8, 2, 64, 64) if self.small else (32, 8, 128, 4096)
        h = attention.Heads(heads, kv, d, d, 2 * kv * d, 2 * d, 2 * kv * d, 2 * d)
        for sequences, tokens in ((1, 32), (16, 1)) if self.small else ((1, 512), (8, 64), (16, 1)):
            table, mask = self._mask(sequences, n, tokens)
            make = partial(self._prompt, h, sequences, tokens, n, table, mask)
            us, flops = self.calls(make, 4 * sequences * n * kv * d), 4 * sequences * tokens * n * heads * d
            shape = f"{heads} heads, {kv} kv, {d}, {sequences} × {tokens} tokens of {n}"
            yield self.row("attention prompt", shape, us, flops=flops)

    def _prompt(
        self,
        h: attention.Heads,
        sequences: int,
        tokens: int,
        n: int,
        table: Any,
        mask: attention.Mask,
        at: int,
    ) -> Call:
        values = at + sequences * n * h.kv_heads * h.dk * 2
        given = self.x, at, values, table, mask, self.y, h, sequences * tokens, 0.1
        return attention.prompt(*given, sequences=sequences)

    def _mask(self, sequences: int, n: int, tokens: int = 1) -> tuple[Any, attention.Mask]:
        """A table of blocks in any order, and the last tokens of each sequence, which has n positions."""
        blocks = n // CELL_BLOCK
        table = self._given(np.random.default_rng(0).permutation(sequences * blocks))
        last = range(n - tokens, n)
        where = self._given([(s, p, s * blocks) for s in range(sequences) for p in last])
        return table, attention.Mask(where)

    def _given(self, values: Any) -> Any:
        """Integers on the GPU."""
        array = np.array(values, np.int32)
        buffer = self._room(array.nbytes)
        gpu_calls.upload(buffer, array, self.stream)
        return buffer

    def states(self) -> Iterator[Row]:
        """Recurrent ops of a token, of one of each of eight sequences, and of a prompt; shapes of Qwen3.5 35B-A3B."""
        heads, keys, d = (4, 2, 32) if self.small else (32, 16, 128)
        for sequences, tokens in ((1, 1), (8, 1), (1, 8 if self.small else 512)):
            where = self._given([(s, 1 + t, 0) for s in range(sequences) for t in range(tokens)])
            of, nbytes = recurrent.Where(where, sequences * tokens), 4 * heads * d * d * sequences
            for what, make in (("delta rule", self._delta), ("delta rule, channels", self._delta_channels)):
                us = self.calls(partial(make, (heads, keys, d, d), of), nbytes)
                shape = f"{heads} heads, {keys} keys, {d}, {sequences} × {tokens} tokens"
                yield self.row(what, shape, us, 2 * nbytes)
            us = self.calls(partial(self._scan, (2 * heads, d // 2, 1, d), of), nbytes)
            shape = f"{2 * heads} heads, {d // 2} × {d}, {sequences} × {tokens} tokens"
            yield self.row("scan", shape, us, 2 * nbytes)

    def _delta(
        self, shape: tuple[int, int, int, int], of: recurrent.Where, at: int, by_channel: bool = False
    ) -> Call:
        heads, keys, dk, dv = shape
        width = dk if by_channel else 1
        apart = [(keys * dk, dk)] * 2 + [(heads * dv, dv), (heads * width, width), (heads, 1)]
        return recurrent.gated_delta_net([self.x] * 5, at, self.y, of, shape, apart, by_channel, False)

    def _delta_channels(self, shape: tuple[int, int, int, int], of: recurrent.Where, at: int) -> Call:
        return self._delta(shape, of, at, True)

    def _scan(self, shape: tuple[int, int, int, int], of: recurrent.Where, at: int) -> Call:
        heads, width, groups, n = shape
        apart = (heads * width, width, heads, 1, 1, groups * n, n, groups * n, n)
        return recurrent.ssm_scan([self.x] * 5, at, self.y, of, shape, apart, False)

    def _attention(
        self,
        h: attention.Heads,
        tokens: int,
        cells: int,
        table: Any,
        mask: attention.Mask,
        part: Any,
        which: int,
        at: int,
    ) -> Call:
        values, sms = at + cells * h.kv_heads * h.dk * 2, self.target.gpu.multiprocessors
        given = self.x, at, values, table, mask, part, self.y, h, tokens, cells, 0.1
        return attention.attention("f16", *given, sms=sms)[which]

    @property
    def parts(self) -> tuple[Callable[[], Iterator[Row]], ...]:
        """What is timed, in order."""
        first = self.peaks, self.matvecs, self.gemms, self.libraries, self.tokens
        return (*first, self.attentions, self.prompts, self.states)

    def everything(self) -> Iterator[Row]:
        for part in self.parts:
            yield from part()

    def tuned(self) -> Iterator[Row]:
        """Rows a warp takes, loads in flight, parts of K of the one-token mat-vec: for GS_ROWS, GS_UNROLL, split_of."""
        shapes = ((64, 512),) if self.small else SHAPES
        for per_warp, unroll in ((1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2)):
            self.target.defines = (f"GS_ROWS={per_warp}", f"GS_UNROLL={unroll}")
            for kind, (rows, k), split in product(("q4_0", "q8_0", "q4_k", "q6_k", "f16"), shapes, (1, 2, 4)):
                make, nbytes = self._matvec(kind, rows, k)
                us = self.calls(partial(_tuned, make, rows, per_warp, split), nbytes)
                yield self.row(
                    f"{kind} rows {per_warp} unroll {unroll} split {split}", f"{rows}x{k}", us, nbytes
                )
        self.target.defines = ()


def _tuned(make: Callable[[int], Call], rows: int, per_warp: int, split: int, w: int) -> Call:
    """make(w) with another number of rows a warp and parts of K (the last argument)."""
    c = make(w)
    return replace(c, grid=(matmul.blocks(rows, split, per_warp),), args=(*c.args[:-1], split))


def torch_us(m: int, n: int, k: int) -> float | None:
    """torch.matmul of random bf16 in microseconds, or None without torch."""
    try:
        import torch
    except ImportError:
        return None
    x, w = (torch.randn(r, k, device="cuda", dtype=torch.bfloat16) for r in (m, n))
    y, times = torch.empty(m, n, device="cuda", dtype=torch.bfloat16), []
    for i in range(12):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(10):
            torch.matmul(x, w.T, out=y)
        end.record()
        end.synchronize()
        times += [begin.elapsed_time(end) * 100] if i > 2 else []
    return float(np.median(times))
