"""What this machine's CPU can do at most: bytes/s read from memory, operations/s of int8 and f32 products."""

from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import numpy as np

from graphsched.backends.cpu.language.dot_bytes import dot_u8_i8
from graphsched.backends.cpu.language.jit import Kernel, kernel
from graphsched.backends.cpu.language.simd import add, fma, load, put, splat, splat_i32, sum_lanes, to_f32
from graphsched.backends.cpu.language.vector import F32, I8
from graphsched.backends.cpu.program import layout
from graphsched.backends.cpu.program.address_space import aligned
from graphsched.backends.cpu.program.kernel_args import arguments, share
from graphsched.backends.cpu.program.pack import Step, pack
from graphsched.backends.cpu.program.pool import POOL
from graphsched.run.operand import Addresses

BYTES: Final = 1 << 28  # more than any cache
ROUNDS: Final = 1 << 20
CHAINS: Final = 8  # products in flight at once
TRIES: Final = 5


@kernel("| src dst n")
def read_memory() -> Callable[..., None]:
    """Every thread adds up its part of a block."""

    def read(step: int, run: int, ith: int, nth: int) -> None:
        src, dst, n = arguments(step)
        first, last = share(n // 256, ith, nth)
        a, b, c, d = splat(0.0, 16), splat(0.0, 16), splat(0.0, 16), splat(0.0, 16)
        for i in range(first, last):
            at = src + 256 * i
            a = add(a, load(at, F32, 16))
            b = add(b, load(at + 64, F32, 16))
            c = add(c, load(at + 128, F32, 16))
            d = add(d, load(at + 192, F32, 16))
        put(dst + 64 * ith, sum_lanes(add(add(a, b), add(c, d))), F32)

    return read


@kernel("| src dst n")
def int8_products() -> Callable[..., None]:
    """Eight chains of dot products of bytes, in registers."""

    def products(step: int, run: int, ith: int, nth: int) -> None:
        src, dst, n = arguments(step)
        x = load(src, I8, 64)
        a, b, c, d = splat_i32(0, 16), splat_i32(1, 16), splat_i32(2, 16), splat_i32(3, 16)
        e, f, g, h = splat_i32(4, 16), splat_i32(5, 16), splat_i32(6, 16), splat_i32(7, 16)
        for i in range(n):
            y = load(src + 64 * (i & 1), I8, 64)
            a, b, c, d = dot_u8_i8(a, x, y), dot_u8_i8(b, x, y), dot_u8_i8(c, x, y), dot_u8_i8(d, x, y)
            e, f, g, h = dot_u8_i8(e, x, y), dot_u8_i8(f, x, y), dot_u8_i8(g, x, y), dot_u8_i8(h, x, y)
        low = add(add(to_f32(a), to_f32(b)), add(to_f32(c), to_f32(d)))
        high = add(add(to_f32(e), to_f32(f)), add(to_f32(g), to_f32(h)))
        put(dst + 64 * ith, sum_lanes(add(low, high)), F32)

    return products


@kernel("| src dst n")
def f32_products() -> Callable[..., None]:
    """Eight chains of fused multiply-adds, in registers."""

    def products(step: int, run: int, ith: int, nth: int) -> None:
        src, dst, n = arguments(step)
        x = load(src, F32, 16)
        a, b, c, d = splat(0.0, 16), splat(0.0, 16), splat(0.0, 16), splat(0.0, 16)
        e, f, g, h = splat(0.0, 16), splat(0.0, 16), splat(0.0, 16), splat(0.0, 16)
        for i in range(n):
            y = load(src + 64 * (i & 1), F32, 16)
            a, b, c, d = fma(x, y, a), fma(x, y, b), fma(x, y, c), fma(x, y, d)
            e, f, g, h = fma(x, y, e), fma(x, y, f), fma(x, y, g), fma(x, y, h)
        put(dst + 64 * ith, sum_lanes(add(add(add(a, b), add(c, d)), add(add(e, f), add(g, h)))), F32)

    return products


def measured_peaks(n_threads: int) -> dict[str, float]:
    """bandwidth in bytes/s; int8 and f32 in operations/s, a product and its sum being two."""
    data = np.zeros(BYTES, np.uint8)
    data[:] = 1  # pages that are there
    small = np.zeros(128, np.uint8)
    return {
        "bandwidth": BYTES / _seconds(read_memory(), data, BYTES, n_threads),
        "int8": n_threads * ROUNDS * CHAINS * 128 / _seconds(int8_products(), small, ROUNDS, n_threads),
        "f32": n_threads * ROUNDS * CHAINS * 32 / _seconds(f32_products(), small, ROUNDS, n_threads),
    }


def _seconds(kernel: Kernel, data: Any, n: int, n_threads: int) -> float:
    """The shortest of a few runs."""
    results = aligned(64 * n_threads)
    step = Step(kernel, kernel.bind({"src": data.ctypes.data, "dst": results.ctypes.data, "n": n}))
    packed = pack([step], Addresses({}, {}), {}, n_threads)
    block = np.zeros(layout.RUN_WORDS, np.int64)
    block[layout.ONE] = 1
    times = []
    for _ in range(TRIES):
        begin = perf_counter()
        POOL.run(packed.words.ctypes.data, 1, block.ctypes.data, n_threads)
        times.append(perf_counter() - begin)
    return min(times)
