"""Cases of wrappers.cu: every gs_* wrapper against numpy. On a new card these come first."""

from collections.abc import Iterator

import numpy as np

from cuda_emu.values import Array, Case, Out, Result, Target, narrow, normal, widen
from graphsched.backends.cuda.launch.call import Call


def one(name: str, *args: object) -> Call:
    """One warp of a wrappers.cu kernel."""
    return Call("wrappers", (), name, (1,), 32, args)


def same_bits(got: Array, want: Array) -> Result:
    """Exact, NaN included."""
    g, w = got.view(np.uint8), np.ascontiguousarray(want, got.dtype).view(np.uint8)
    return g.astype(np.float32), w.astype(np.float32), 0.0


def from_half(target: Target, rng: np.random.Generator) -> Result:
    x = np.arange(65536, dtype=np.uint16)
    half, bf16 = Out(65536), Out(65536)
    target.run(one("wrap_from_half", x, half, bf16, 65536))
    want, real = x.view(np.float16).astype(np.float32), ~np.isnan(x.view(np.float16))
    assert np.isnan(half.array[~real]).all()
    return same_bits(
        np.stack([half.array[real], bf16.array[real]]), np.stack([want, widen(x, "bf16")])[:, real]
    )


def awkward(rng: np.random.Generator) -> Array:
    """Floats around every rounding boundary of half and bfloat16, and ordinary ones."""
    half = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    ties = ((half[1:] + half[:-1]) / 2).astype(np.float32)[::7]
    near = np.concatenate([ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(0))])
    special = np.array(
        [0, -0.0, 65504, 65519.9, 65520, 1e9, -1e9, np.inf, -np.inf, 1e-40, 3.3e38], np.float32
    )
    return np.concatenate([near, -near, special, normal(rng, 1000) * 50, normal(rng, 1000) * 1e-6]).astype(
        np.float32
    )


def to_half(target: Target, rng: np.random.Generator) -> Result:
    x = awkward(rng)
    n, u16, u32 = len(x), np.uint16, np.uint32
    half, bf16, halves, bf16s, exp2 = (Out(n, dtype=t) for t in (u16, u16, u32, u32, np.float32))
    target.run(one("wrap_to_half", x, half, bf16, halves, bf16s, exp2, n))
    with np.errstate(over="ignore"):
        wh, wb = narrow(x, "f16").view(u16), narrow(x, "bf16")
        power = np.exp2(x.astype(np.float64)).astype(np.float32)
    normal_range = (power > 1e-37) & np.isfinite(power)
    assert np.allclose(exp2.array[normal_range], power[normal_range], rtol=3e-7, atol=0)
    assert (exp2.array[power < 1e-38] == 0).all()
    both = [w.astype(u32) | w[::-1].astype(u32) << 16 for w in (wh, wb)]
    return same_bits(np.stack([half.array, bf16.array, halves.array, bf16s.array]), np.stack([wh, wb, *both]))


def integers(target: Target, rng: np.random.Generator) -> Result:
    n = 500
    a, b = (rng.integers(0, 2**32, n, dtype=np.uint32) for _ in range(2))
    dp4a, prmt = Out(n, dtype=np.uint32), Out(n, dtype=np.uint32)
    target.run(one("wrap_integers", a, b, dp4a, prmt, n))
    signed = [v.view(np.int8).reshape(n, 4).astype(np.int64) for v in (a, b)]
    sums = (np.arange(n) + (signed[0] * signed[1]).sum(1)).astype(np.int32).view(np.uint32)
    source = np.concatenate([a.view(np.uint8).reshape(n, 4), b.view(np.uint8).reshape(n, 4)], axis=1)
    pick = (a ^ b[::-1])[:, None] >> np.array([0, 4, 8, 12], np.uint32) & 15
    byte = np.take_along_axis(source, (pick & 7).astype(np.int64), 1)
    byte = np.where(pick & 8, np.where(byte & 128, 255, 0), byte).astype(np.uint8)
    return same_bits(np.stack([dp4a.array, prmt.array]), np.stack([sums, byte.view(np.uint32)[:, 0]]))


def loads(target: Target, rng: np.random.Generator) -> Result:
    x, y = rng.integers(0, 256, (32, 16), dtype=np.uint8), Out(32, 9, dtype=np.uint32)
    target.run(one("wrap_loads", x, y))
    w = x.view(np.uint32)
    want = np.concatenate([w, w[:, :2], w[:, :1], x.view(np.uint16)[:, :1], x[:, :1]], axis=1)
    return same_bits(y.array, want)


def lanes(target: Target, rng: np.random.Generator) -> Result:
    x, y, lane = rng.integers(-99, 99, 32).astype(np.float32), Out(5, 32), np.arange(32)
    target.run(one("wrap_lanes", x, y))
    total = np.full(32, x.sum())
    return same_bits(y.array, np.stack([x[lane ^ 5], x[lane * 3 % 32], total, np.full(32, x.max()), total]))


def matrix(target: Target, rng: np.random.Generator) -> Result:
    a, b = (rng.integers(0, 256, (16, 32), dtype=np.uint8) & 0xBF for _ in range(2))  # no infinities or NaN
    registers, transposed, zeros = (
        Out(32, 4, dtype=np.uint32),
        Out(32, 4, dtype=np.uint32),
        Out(32, dtype=np.uint32),
    )
    half, bf16, tf32 = Out(16, 16), Out(16, 16), Out(16, 16)
    int8, first = Out(16, 16, dtype=np.int32), Out(16, 16, dtype=np.int32)
    target.run(one("wrap_matrix", a, b, registers, transposed, half, bf16, tf32, int8, first, zeros))
    lane, words = np.arange(32), a.view(np.uint32)
    for r in range(4):
        assert (registers.array[:, r] == words[lane // 4 + r % 2 * 8, r // 2 * 4 + lane % 4]).all()
        across, at = a.view(np.uint16).T, r % 2 * 8 + lane % 4 * 2  # row: a column of a
        pair = [across[lane // 4 + r // 2 * 8, at + i].astype(np.uint32) << 16 * i for i in (0, 1)]
        assert (transposed.array[:, r] == (pair[0] | pair[1])).all()
    assert (zeros.array == 0).all()
    x, y = (m.view(np.int8).astype(np.int64) for m in (a, b))
    assert (int8.array == x @ y.T).all()
    assert (first.array == x[:, :16] @ y[:, :16].T).all()
    pairs = []
    for got, kind in ((half, "f16"), (bf16, "bf16")):
        stored = np.float16 if kind == "f16" else np.uint16
        u, v = (widen(m.view(stored), kind).astype(np.float64) for m in (a, b))
        scale = np.abs(u) @ np.abs(v).T  # the terms differ by many powers of two
        pairs.append((got.array / scale, u @ v.T / scale))
    u, v = ((m.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(np.float64) for m in (a, b))
    scale = np.maximum(np.abs(u) @ np.abs(v).T, 1e-25)  # the smallest products are no normal float32
    pairs.append((tf32.array / scale, u @ v.T / scale))
    return np.stack([g for g, _ in pairs]), np.stack([w for _, w in pairs]), 1e-5


def copies(target: Target, rng: np.random.Generator) -> Result:
    x, y = rng.integers(1, 256, (32, 16), dtype=np.uint8), Out(32, 8, dtype=np.uint32)
    target.run(one("wrap_copies", x, y))
    w = x.view(np.uint32)
    keep = np.array([1, 1, 0, 0, 0, 1, 0, 1], np.uint32)
    return same_bits(y.array, np.concatenate([w, w], axis=1) * keep)


def wrappers() -> Iterator[Case]:
    for run in (from_half, to_half, integers, loads, copies, lanes, matrix):
        yield Case(f"wrapper-{run.__name__}", run)
