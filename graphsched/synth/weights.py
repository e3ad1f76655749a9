"""Made-up weights: bytes that decode to noise of a sane size, as fast as memory can be copied."""

import math
import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from graphsched.errors import Error, OptionError
from graphsched.synth.types import TERNARY, is_vector
from graphsched.types.dtypes import DType
from graphsched.types.shapes import TensorType

Bytes = NDArray[np.uint8]

_POOL: Final = 1 << 20  # weights that are quantised once; rows are windows into them
_CHUNK: Final = 8 << 20
# Types that nothing here quantises to: random bytes are random weights once the blocks' scales are set. The offsets of
# the halves that scale, and that scale what is subtracted.
_SCALES: Final[dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {
    "Q2_K": ((80,), (82,)),
    "Q3_K": ((108,), ()),
    "Q4_K": ((0,), (2,)),
    "Q5_K": ((0,), (2,)),
    "Q6_K": ((208,), ()),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS", "Q6_0", "Q1_0"), ((0,), ())),
    **{f"IQ{bits}": ((0,), ()) for bits in ("1_S", "2_XXS", "2_XS", "2_S", "3_XXS", "3_S")},
    "IQ1_M": ((48,), ()),  # in the highest four bits of four words
    **{name: (tuple(range(0, 8, 2)), ()) for name in ("IQ4_NL_R4", "Q5_0_R4", "Q6_0_R4")},
    **{name: (tuple(range(0, 16, 2)), ()) for name in ("Q4_0_R8", "Q8_0_R8")},
}


def check_encodable(dtype: DType) -> None:
    """OptionError for a type whose bytes cannot be made up here."""
    if dtype.name in _SCALES or dtype.numpy is not None:
        return
    try:
        dtype.quantize(np.zeros((dtype.interleave, dtype.block), np.float32))
    except Error:
        sentence = f"there are no made-up weights of type {dtype}; --sparse and --header-only need none"
        raise OptionError(sentence) from None


def chunks(name: str, type: TensorType, n_layer: int, is_tied: bool) -> Iterator[Bytes]:
    """A tensor's bytes piece by piece, the same for every run."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if is_vector(name, type.shape):
        yield _vector(name, type.numel, rng).view(np.uint8)
        return
    role = re.sub(r"^blk\.\d+\.", "", name)
    header, pool, tail = _pool(type.dtype, _deviation(name, type.shape, n_layer, is_tied), role)
    unit, group = type.dtype.nbytes * type.dtype.interleave, type.dtype.interleave
    payload = type.shape[-1] // type.dtype.block * unit
    # Rows are windows into one pool of noise, so that files of many GB are written at the speed of a copy.
    windows = as_strided(pool, (max((pool.size - payload) // unit, 1), payload), (unit, 1), writeable=False)
    count, start, step = (
        math.prod(type.shape[:-1]) // group,
        int(rng.integers(len(windows))),
        _step(len(windows)),
    )
    at_once = max(1, _CHUNK // payload)
    for first in range(0, count, at_once):
        n = min(at_once, count - first)
        rows = windows[(start + step * np.arange(first, first + n)) % len(windows)]
        yield np.hstack([np.broadcast_to(header, (n, header.size)), rows]) if header.size else rows
    if tail.size:
        yield tail


def _step(n: int) -> int:
    """A stride that meets each of n windows once before any twice, and neighbours late."""
    step = max(1, int(n * 0.618))
    while math.gcd(step, n) > 1:
        step += 1
    return step


def _deviation(name: str, shape: tuple[int, ...], n_layer: int, is_tied: bool) -> float:
    """What keeps the size of activations: 1 / sqrt(inputs); a residual sum over all layers stays at about 1."""
    if name == "token_embd.weight" and not is_tied:
        return 1.0
    inputs = shape[-2] if "attn_k_b" in name else shape[-1]
    joins_residual = any(part in name for part in ("attn_output", "ssm_out", "ffn_down"))
    return 1 / math.sqrt(inputs * (2 * n_layer if joins_residual else 1))


def _vector(name: str, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Norm weights near 1, biases near 0, what a state forgets near -0.1, and the rotary divisors of Llama 3.1."""
    if name == "rope_freqs.weight":
        length = 2 * math.pi * 5e5 ** (np.arange(n) / n)
        smooth = (8192 / length - 1) / (4 - 1)
        middle = 1 / ((1 - smooth) / 8 + smooth)
        factors = np.where(length < 8192 / 4, 1, np.where(length > 8192, 8, middle))
        return factors.astype(np.float32)
    noise = rng.standard_normal(n, np.float32)
    if name.endswith("ssm_a"):
        return np.float32(-0.1) * np.exp(noise)
    return 0.01 * noise if name.endswith(".bias") else 1 + 0.05 * noise


@lru_cache(16)
def _pool(dtype: DType, deviation: float, role: str) -> tuple[Bytes, Bytes, Bytes]:
    """Row header, blocks and tail of one long row (or group of rows) of noise.

    A role has its own: output rows that were also rows of the embedding would answer every token with itself.
    """
    rng = np.random.default_rng(zlib.crc32(role.encode()))
    rows = (dtype.interleave, _POOL // dtype.interleave)
    if dtype.name in _SCALES:
        raw = _random_blocks(dtype, deviation, rng)
    elif dtype.name in TERNARY:
        raw = dtype.quantize(rng.integers(-1, 2, rows) * np.float32(deviation * math.sqrt(1.5)))
    else:
        raw = dtype.quantize(rng.standard_normal(rows, np.float32) * np.float32(deviation))
    start, end = dtype.row_header * dtype.interleave, raw.size - dtype.tail
    return raw[:start], raw[start:end], raw[end:]


def _random_blocks(dtype: DType, deviation: float, rng: np.random.Generator) -> Bytes:
    """Random blocks with scales that give mean 0 and the deviation."""
    scales, minima = _SCALES[dtype.name]
    unit = dtype.nbytes * dtype.interleave
    raw = rng.integers(0, 256, (_POOL // dtype.block // dtype.interleave, unit), np.uint8)
    probe = raw[:1024].copy()

    def decoded(scale: float, minimum: float) -> NDArray[np.float32]:
        _set_halves(dtype, probe, scales, scale)
        _set_halves(dtype, probe, minima, minimum)
        width = len(probe) * dtype.block
        order = probe if dtype.interleave > 1 else probe.reshape(1, -1)
        return dtype.dequantize(order.reshape(-1), (dtype.interleave, width))

    scaled, subtracted = decoded(1, 0), decoded(0, 1)
    ratio = -float(scaled.mean() / subtracted.mean()) if minima else 0.0
    size = deviation / float(np.std(scaled + ratio * subtracted))
    # Codes are not symmetric: a block in two is negated, or all columns would share a part of their products.
    sign = rng.choice(np.array([-1, 1], np.float32), (len(raw), 1))
    _set_halves(dtype, raw, scales, size * sign)
    _set_halves(dtype, raw, minima, size * ratio * sign)
    return raw.reshape(-1)


def _set_halves(dtype: DType, blocks: Bytes, offsets: tuple[int, ...], value: Any) -> None:
    halves = np.broadcast_to(np.float16(value), (len(blocks), 1)).copy()
    for offset in offsets:
        if dtype.name == "IQ1_M":
            words = blocks[:, offset : offset + 8].view("<u2")
            words[:] = words & 0xFFF | (halves.view(np.uint16) << np.array([12, 8, 4, 0], np.uint16)) & 0xF000
        else:
            blocks[:, offset : offset + 2] = halves.view(np.uint8)
