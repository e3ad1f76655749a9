"""Cases of quantize.cu, norm.cu, rope.cu, elementwise.cu, copy.cu and decode.cu."""

from collections.abc import Callable, Iterator

import numpy as np

from cuda_emu.values import (
    STORED,
    Array,
    Case,
    Out,
    Result,
    Run,
    Target,
    error,
    narrow,
    normal,
    quantised,
    tensor,
    widen,
)
from graphsched.backends.cuda.families import copy, elementwise, norm, quantize, rope
from graphsched.backends.cuda.families.decode import decode
from graphsched.backends.cuda.launch.fused import CACHE_BLOCKS
from graphsched.backends.cuda.launch.layout import LAYOUTS
from graphsched.types import dtypes


def quantize_case(tokens: int, k: int, pad: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        x = normal(rng, tokens, k + pad)
        x[0, :32] = 0
        q, ds = Out(tokens, k, dtype=np.int8), Out(tokens, k // 32, 2)
        target.run(quantize.quantize(x, q, ds, tokens, k, k + pad))
        want_q, want_ds, _ = quantised(np.ascontiguousarray(x[:, :k]))
        return (
            np.concatenate([q.array.ravel(), ds.array.ravel()]),
            np.concatenate([want_q.ravel(), want_ds.ravel()]),
            1e-6,
        )

    return run


def normed(x: Array, eps: float) -> Array:
    x = x.astype(np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def norm_case(rows: int, k: int, weighted: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        x, w, y = normal(rng, rows, k + 3), normal(rng, k), Out(rows, k)
        target.run(norm.rms_norm(x, w if weighted else None, y, rows, k, k + 3, k, 1e-5))
        return y.array, normed(x[:, :k], 1e-5) * (w if weighted else 1.0), 1e-6

    return run


def add_norm(target: Target, rng: np.random.Generator) -> Result:
    x, r, w, z, y = normal(rng, 3, 1001), normal(rng, 3, 1001), normal(rng, 1001), Out(3, 1001), Out(3, 1001)
    target.run(norm.rms_norm(x, w, y, 3, 1001, 1001, 1001, 1e-6, (r, z)))
    want = np.concatenate([x + r, normed(x + r, 1e-6) * w])
    return np.concatenate([z.array, y.array]), want, 1e-6


def norm_q8(target: Target, rng: np.random.Generator) -> Result:
    tokens, k, stride = 2, 4128, 4131
    x, w, y = normal(rng, tokens, stride), normal(rng, k), Out(tokens, k)
    q, ds = Out(tokens, k, dtype=np.int8), Out(tokens, k // 32, 2)
    target.run(quantize.rms_norm_q8(x, w, y, q, ds, tokens, k, stride, 1e-5))
    alone, q2, ds2 = Out(tokens, k), Out(tokens, k, dtype=np.int8), Out(tokens, k // 32, 2)
    target.run(
        norm.rms_norm(x, w, alone, tokens, k, stride, k, 1e-5),
        quantize.quantize(alone, q2, ds2, tokens, k, k),
    )
    assert all(np.array_equal(a.array, b.array) for a, b in ((y, alone), (q, q2), (ds, ds2)))
    values = (q.array.reshape(tokens, -1, 32) * ds.array[..., :1]).reshape(tokens, k)
    want = normed(x[:, :k], 1e-5) * w
    sums = ds.array[..., 0] * q.array.reshape(tokens, -1, 32).sum(-1)
    assert error(y.array, want) < 1e-6
    assert error(ds.array[..., 1], sums) < 1e-6
    return values, want, 1e-2


def rope_case(dims: int, n_rot: int, neox: bool, first: int) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        tokens, heads, more = 3, 2, 3 * (first == 5)  # a second tensor, in one of the cases
        x, y = normal(rng, tokens, heads, dims), Out(tokens, heads, dims)
        x1, y1 = normal(rng, tokens, more, dims), Out(tokens, more, dims)
        freq = (10000.0 ** -(np.arange(n_rot // 2) * 2 / n_rot) / rng.uniform(1, 8, n_rot // 2)).astype(
            np.float32
        )
        positions = np.array([first, first + 1, first + 77], np.int32)
        of = [
            rope.Rotated(x, y, n, (dims, n * dims, dims, n * dims))
            for x, y, n in ((x, y, heads), (x1, y1, more))
            if n
        ]
        target.run(rope.rope(of, positions, freq, tokens, dims, n_rot, neox, 1.2))
        angle = positions[:, None, None] * freq.astype(np.float64)
        c, s = np.cos(angle) * 1.2, np.sin(angle) * 1.2
        a, b = (
            (slice(0, n_rot // 2), slice(n_rot // 2, n_rot))
            if neox
            else (slice(0, n_rot, 2), slice(1, n_rot, 2))
        )
        x = np.concatenate([x, x1], axis=1)
        want = x.astype(np.float64)
        want[..., a], want[..., b] = x[..., a] * c - x[..., b] * s, x[..., a] * s + x[..., b] * c
        return np.concatenate([y.array, y1.array], axis=1), want, 5e-7

    return run


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(0.7978845608 * x * (1 + 0.044715 * x * x)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": gelu,
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}
BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "mul": np.multiply,
    "silu_mul": lambda a, b: a / (1 + np.exp(-a)) * b,
    "gelu_mul": lambda a, b: gelu(a) * b,
    "relu2_mul": lambda a, b: np.maximum(a, 0) ** 2 * b,
}


def binary_case(op: str, repeat: bool) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        a, b, y = normal(rng, 3, 300) * 4, normal(rng, 1 if repeat else 3, 301), Out(3, 300)
        target.run(elementwise.binary(op, a, b, y, 3, 300, (300, 0 if repeat else 301, 300)))
        return y.array, BINARY[op](a.astype(np.float64), b[:, :300].astype(np.float64)), 1e-6

    return run


def scaled(target: Target, rng: np.random.Generator) -> Result:
    x, y = normal(rng, 2, 33), Out(2, 33)
    target.run(elementwise.scale(x, y, 2, 33, (33, 33), 0.125))
    return y.array, x * 0.125, 1e-7


def expert_sum(target: Target, rng: np.random.Generator) -> Result:
    x, w, y = normal(rng, 2, 6, 70), normal(rng, 2, 6), Out(2, 70)
    target.run(elementwise.weighted_sum(x, w, y, 2, 6, 70))
    return y.array, np.einsum("te,tek->tk", w.astype(np.float64), x), 1e-6


# ---- copies


def copy_case(a: str, b: str) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        shape = (2, 3, 4, 70)
        x, y = narrow(normal(rng, 2, 4, 3, 71), a), Out(2, 3, 4, 70, dtype=STORED[b])
        xs, ys = (4 * 3 * 71, 71, 3 * 71, 1), (3 * 4 * 70, 4 * 70, 70, 1)
        target.run(copy.copy(x, y, (a, b), shape, xs, ys))
        want = widen(narrow(widen(x, a)[..., :70].transpose(0, 2, 1, 3), b), b)
        return widen(y.array, b), want, 0.0

    return run


def rows_case(kind: str) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        ids, pairs, wants, caches = np.array([4, -1, 0], np.int32), [], [], []
        for k in (70, 300):
            x, cache, want = normal(rng, 3, k), Out(5, k, dtype=STORED[kind]), np.zeros((5, k), STORED[kind])
            cache.array[:] = 0
            pairs.append(copy.Rows(x, cache, k, k, k))
            want[[4, 0]] = narrow(x[[0, 2]], kind)
            wants.append(want)
            caches.append(cache)
        target.run(copy.set_rows(kind, ids, 3, *pairs))
        got = [c.array.copy() for c in caches]
        caches[0].array[:] = 0
        target.run(copy.set_rows(kind, ids, 3, pairs[0]))  # alone
        assert np.array_equal(caches[0].array, wants[0])
        return np.concatenate(got, axis=1), np.concatenate(wants, axis=1), 0.0

    return run


def block_rows_case(kind: str) -> Run:
    """Into a cache of blocks and back: the bytes are the CPU's but for ties that two roundings make."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        dtype, heads, k = dtypes.by_name(kind), 2, 96
        x, ids, row = normal(rng, 3, heads * k), np.array([4, -1, 0], np.int32), dtype.row_bytes(k)
        x[2, 32:64] = 0
        x[2, 70], x[2, 65] = -5, 5  # of equals the first
        cache, y, some = Out(5, heads * row, dtype=np.uint8), Out(5, heads, k), Out(4, heads, k)
        which = np.array([4, 0, -1, 5], np.int32)
        cache.array[:] = 0
        target.run(
            copy.set_rows(kind, ids, 3, copy.Rows(x, cache, heads * k, heads * k, heads * row, heads)),
            copy.get_rows(kind, cache, None, y, (5, heads, k), 5, (heads * row, row)),
            copy.get_rows(kind, cache, which, some, (4, heads, k), 5, (heads * row, row)),
        )
        assert np.array_equal(some.array[:2], y.array[[4, 0]])
        assert not some.array[2:].any()
        want = np.zeros((5, heads * row), np.uint8)
        want[[4, 0]] = [dtype.quantize(r.reshape(heads, k), at_once=True) for r in x[[0, 2]]]
        assert (cache.array != want).mean() < 0.01
        return y.array, dtype.dequantize(cache.array.reshape(-1), (5, heads, k)), 0.0

    return run


def gather_case(kind: str) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        x, y, ids = narrow(normal(rng, 5, 2, 300), kind), Out(4, 2, 290), np.array([4, 0, -1, 5], np.int32)
        row = 300 * x.itemsize
        target.run(copy.get_rows(kind, x, ids, y, (4, 2, 290), 5, (2 * row, row)))
        want = np.zeros((4, 2, 290), np.float32)
        want[:2] = widen(x, kind)[[4, 0], :, :290]
        return y.array, want, 0.0

    return run


def inside_case(row: int) -> Run:
    """Rows of bytes inside of a cache."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        cache, source, target_rows = Out(7, row, dtype=np.uint8), np.array([4, 0, 1]), np.array([5, 3, 2])
        cache.array[:] = rng.integers(0, 256, (7, row))
        want = cache.array.copy()
        want[target_rows] = want[source]
        target.run(copy.copy_rows(cache, source.astype(np.int32), target_rows.astype(np.int32), 3, row))
        return cache.array, want, 0.0

    return run


def dequantize_case(kind: str) -> Run:
    def run(target: Target, rng: np.random.Generator) -> Result:
        rows, k, which = 5, 512, np.array([3, 0, 4], np.int32)
        w, values = tensor(kind, rows, k, rng)
        y = Out(len(which), k)
        target.run(copy.dequantize(kind, w, y, which, len(which), rows, k))
        return y.array, values[which], 0.0

    return run


def decode_case(kind: str, rows: int, k: int, first: int) -> Run:
    """Rows from `first` on."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        w, values = tensor(kind, first + rows + 2, k, rng)
        y = Out(rows, k, dtype=np.uint16)
        target.run(decode(kind, w, y, len(values), first, rows, k))
        want = narrow(values[first : first + rows], "bf16")
        return widen(y.array, "bf16"), widen(want, "bf16"), 0.0

    return run


def rounded_case(kind: str, tokens: int, k: int, pad: int) -> Run:
    """Also what is beyond the largest half."""

    def run(target: Target, rng: np.random.Generator) -> Result:
        x, y = normal(rng, tokens, k + pad), Out(tokens, k, dtype=STORED[kind])
        x[0, :3] = 1e5, -1e5, 65520
        target.run(quantize.rounded(kind, x, y, tokens, k, k + pad))
        want = np.clip(x[:, :k], -65504, 65504) if kind == "f16" else x[:, :k]
        return widen(y.array, kind), widen(narrow(want, kind), kind), 0.0

    return run


def activations() -> Iterator[Case]:
    for kind in ("f16", "bf16"):
        for tokens, k, pad in ((1, 8, 0), (5, 1032, 4)):
            yield Case(f"rounded-{kind}-{tokens}x{k}", rounded_case(kind, tokens, k, pad))
    for tokens, k, pad in ((1, 32, 0), (3, 1088, 4), (2, 4096, 0)):
        yield Case(f"quantize-{tokens}x{k}", quantize_case(tokens, k, pad))
    for rows, k, weighted in ((1, 7, True), (3, 128, False), (2, 5000, True)):
        yield Case(f"rms_norm-{rows}x{k}", norm_case(rows, k, weighted))
    yield Case("add_rms_norm", add_norm)
    yield Case("rms_norm_q8", norm_q8)
    for dims, n_rot, neox, first in (
        (64, 64, False, 0),
        (128, 128, True, 131000),
        (80, 32, True, 5),
        (96, 64, False, 9),
    ):
        yield Case(
            f"rope-{dims}-{n_rot}-{'neox' if neox else 'norm'}-{first}", rope_case(dims, n_rot, neox, first)
        )
    for op in BINARY:
        for repeat in (False, True):
            yield Case(f"{op}{'-repeat' * repeat}", binary_case(op, repeat))
    yield Case("scale", scaled)
    yield Case("weighted_sum", expert_sum)


def copies() -> Iterator[Case]:
    for a, b in (("f32", "f32"), ("f32", "f16"), ("f32", "bf16"), ("f16", "f32"), ("bf16", "f32")):
        yield Case(f"copy-{a}-{b}", copy_case(a, b))
    for kind in STORED:
        yield Case(f"set_rows-{kind}", rows_case(kind))
    for kind in CACHE_BLOCKS.values():
        yield Case(f"set_rows-{kind}", block_rows_case(kind))
    for kind in STORED:
        yield Case(f"get_rows-{kind}", gather_case(kind))
    for row in (4800, 1700, 1122, 33):
        yield Case(f"copy_rows-{row}", inside_case(row))
    for kind in LAYOUTS:
        yield Case(f"to_f32-{kind}", dequantize_case(kind))
        for rows, k, first in ((5, 512, 0), (3, 1280, 4)):
            yield Case(f"decode-{kind}-{rows}x{k}", decode_case(kind, rows, k, first))
