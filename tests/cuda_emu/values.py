"""What the cases of CUDA kernels are made of: outputs, targets, random tensors and their values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cuda_emu import unpack
from cuda_emu.repacked import repack
from graphsched.backends.cuda.families import matmul, recurrent
from graphsched.backends.cuda.launch.call import Call
from graphsched.backends.cuda.launch.codebook import ONE_SCALE, TABLES
from graphsched.backends.cuda.launch.layout import ALIGN, KERNEL_TYPE, LAYOUTS

Array = np.ndarray[Any, Any]
Result = tuple[Array, Array, float]
# byte offsets of the float16 scales in a file block, so that random bytes make sane numbers
HALVES = {
    "q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "q4_1": (0, 2),
    "q5_1": (0, 2), "mxfp4": (), "iq2_bn": (), "iq1_bn": (), "iq1_m": (),
    "tq1_0": (52,), "tq2_0": (64,),
}  # fmt: skip
ALL = tuple(dict.fromkeys(KERNEL_TYPE.values()))
ATTENTION = (
    "64_64_1",
    "64_64_2",
    "64_64_4",
    "64_64_8",
    "96_96_2",
    "128_128_2",
    "128_128_8",
    "192_128_1",
    "192_128_2",
    "256_256_4",
    "576_512_1",
    "160_128_1",
    "24_8_1",
)  # widths of keys and values, query heads at once
MIXED = (
    "q80_q80",
    "q40_q40",
    "q80_q40",
    "f16_q80",
    "q51_q51",
    "iq4nl_iq4nl",
    "q51_iq4nl",
    "q8kv_q8kv",
    "f16_q8kv",
)  # types of keys and values
CACHES = ("f32", "f16", "bf16", "q80", "q40", "q51", "iq4nl", "q8kv")
# every kernel file and the types it is built for
FILES: dict[str, tuple[str, ...]] = {
    "wrappers": (), "quantize": (), "norm": (), "rope": (), "elementwise": (), "rows": (), "gemm": (), "prompt": (),
    "w2a8": (), "matmul": ALL, "moe": ALL, "copy": ALL, "decode": ALL, "floats": tuple(matmul.FLOATS), "attention": (
        *(f"{t}_{t}_{s}" for t in ("f16", "f32") for s in ATTENTION), *(f"{t}_64_64_4" for t in MIXED),
        *(f"{t}s_{t}s_100_100_2" for t in ("f16", "f32")), "f16s_f16s_33_33_1", "f16s_f16s_20_12_2",
        "f16_f16_120_120_2", "f16_f16_72_72_1", "f16_f16_112_112_1", "q80_q80_576_512_1",
        "q40_q40_576_512_1", "q40_q40_128_128_8", "q51_q51_576_512_1", "iq4nl_iq4nl_576_512_1", "bf16_bf16_64_64_4",
        "bf16s_bf16s_33_33_1", "q8kv_q8kv_576_512_1",
    ),
    "scores": CACHES, "sparse": CACHES, "streams": (),
    "gemm_q8": ALL, "recurrent": tuple(map(str, recurrent.WIDTHS)),
}  # fmt: skip
# What cases of the op table and tiny models have beside these.
ON_THE_STAND_IN: dict[str, tuple[str, ...]] = {
    "attention": (
        *(f"{t}_{t}_288_256_1" for t in ("f16", "f32", "bf16", "q40", "q51", "q80", "iq4nl", "q8kv")),
        *(f"{t}_{t}_32_32_4" for t in ("f16", "f32", "bf16", "q40", "q51", "q80", "iq4nl", "q8kv")),
        *(f"f32_f32_{s}" for s in ("24_24_2", "48_48_2", "8_8_2")), "f32s_f32s_33_33_2",
        *(f"f16_f16_{s}" for s in ("32_32_2", "64_32_1", "64_32_2")),
        *(f"{t}_64_64_2" for t in ("q40_q40", "q80_q40", "q51_iq4nl", "q8kv_q8kv")),
        "q51_q51_64_64_8", "q80_q80_64_64_8",
    ),
}  # fmt: skip


def built_for(stem: str, types: tuple[str, ...]) -> tuple[str, ...]:
    """The types that the stand-in builds a file for when it needs `types`: all known ones, in one run of g++."""
    known = FILES.get(stem, ()) + ON_THE_STAND_IN.get(stem, ())
    return known if set(types) <= set(known) else types


class Out:
    """An output: NaN before the launch; later launches of the case may read it."""

    def __init__(self, *shape: int, dtype: Any = np.float32) -> None:
        self.array: Array = np.frombuffer(
            b"\xff" * (int(np.prod(shape)) * np.dtype(dtype).itemsize), dtype
        ).copy()
        self.array = self.array.reshape(shape)


class Target(Protocol):
    """Where a case runs: arguments are arrays (read), Out (written) and scalars."""

    def run(self, *calls: Call) -> None: ...


Run = Callable[[Target, np.random.Generator], Result]


@dataclass(frozen=True)
class Case:
    """One row of a test table: makes inputs, launches, returns (got, want, tolerance)."""

    name: str
    run: Run


def error(got: Array, want: Array) -> float:
    """|got - want| / |want|; NaN and infinity never pass."""
    if not np.isfinite(got).all():
        return float("inf")
    g, w = got.astype(np.float64), want.astype(np.float64)
    return float(np.linalg.norm(g - w) / max(float(np.linalg.norm(w)), 1e-30))


def file_bytes(kind: str, rows: int, k: int, rng: np.random.Generator) -> Array:
    """A random tensor as it stands in a file."""
    layout = LAYOUTS[kind]
    raw = rng.integers(0, 256, (rows, k // layout.block, layout.nbytes), dtype=np.uint8)
    for at in HALVES.get(kind, (0,)):
        scales = rng.uniform(-0.1, 0.1, (*raw.shape[:2], 1)).astype(np.float16)
        raw[..., at : at + 2] = scales.view(np.uint8)
    if kind == "mxfp4":
        raw[..., 0] = rng.integers(118, 130, raw.shape[:2])
    if kind == "iq1_m":  # the half's four nibbles are spread over the scales; a small exponent
        raw[..., 55] = raw[..., 55] & 0x8F | 0x20
    if kind == "iq2_bn":  # the fourth code does not occur
        raw &= ~(raw >> 1 & 0x55 & raw) & 255
    lines = raw.reshape(rows, -1)
    if layout.header:
        scale = rng.uniform(0.5, 1.5, (rows, 1)).astype("<f4" if layout.header == 4 else "<f2")
        lines = np.concatenate([scale.view(np.uint8), lines], axis=1)
    return lines.reshape(-1)


def planes(kind: str, rows: int, k: int, rng: np.random.Generator) -> Array:
    """Random codes and scales as repack() would leave them: of 4 or 2 bits, int8 and half scales."""
    layout, n = LAYOUTS[kind], len(TABLES.get(KERNEL_TYPE[kind], ((0,) * 3,))[0])
    q, _, s, b, _ = layout.sizes(rows, k)
    crumbs = rng.integers(0, n, (4, q)) << np.array([0, 2, 4, 6])[:, None]
    nibbles = rng.integers(0, n, (2, q)) << np.array([0, 4])[:, None]
    halves = rng.uniform(-0.1, 0.1, b // 2).astype(np.float16)
    scales = rng.integers(0, 16, s) * 2 + 1
    parts = (
        (nibbles if layout.q == 16 else crumbs).sum(0),
        scales[::2].repeat(2) if kind in ONE_SCALE else scales,
        halves.view(np.uint8),
    )
    return np.concatenate([np.pad(p.astype(np.uint8), (0, -len(p) % ALIGN)) for p in parts])


def tensor(kind: str, rows: int, k: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """A random repacked tensor and its values."""
    coded = KERNEL_TYPE[kind] in (*TABLES, "tq2_0")  # repack() needs gguf for these
    packed = planes(kind, rows, k, rng) if coded else repack(kind, file_bytes(kind, rows, k, rng), rows, k)
    return packed, unpack.weights(kind, packed, rows, k)


def quantised(x: Array) -> tuple[Array, Array, Array]:
    """numpy's twin of quantize.cu: int8, (scale, scale * sum), and the values they stand for."""
    b = x.reshape(len(x), -1, 32)
    amax = np.abs(b).max(-1, keepdims=True)
    scale = np.where(amax > 0, np.float32(127) / np.where(amax > 0, amax, 1), 0).astype(np.float32)
    q = np.rint(b * scale).astype(np.int8)
    d = (amax / np.float32(127)).astype(np.float32)
    ds = np.concatenate([d, d * q.sum(-1, keepdims=True).astype(np.float32)], axis=-1)
    return q.reshape(x.shape), ds, (q * d.astype(np.float64)).reshape(x.shape)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    """Normal float32 numbers."""
    return rng.standard_normal(shape).astype(np.float32)


STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


def narrow(x: Array, kind: str) -> Array:
    """float32 → what memory holds; bf16 as its bits, rounded to nearest even."""
    if kind != "bf16":
        return x.astype(STORED[kind])
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widen(x: Array, kind: str) -> Array:
    return (x.astype(np.uint32) << 16).view(np.float32) if kind == "bf16" else x.astype(np.float32)
