"""Quantised rows of the table, and blocks whose values another decoder gives.

Types that the `gguf` package encodes are encoded by it. Of the others a block is random bytes with a scale set, and
`gguf` says what they decode to; ternary blocks are written from the trits.
"""

import re
from dataclasses import replace
from functools import cache
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tiny.table import ROWS, Row, bitnet, llama

Values = NDArray[np.float64]
Bytes = NDArray[np.uint8]
ENCODED = ("BF16", "Q4_0", "Q5_1", "Q8_0", "TQ2_0")
# Where the half precision numbers of a block are that scale it, and that scale what is subtracted.
HALVES = {"Q2_K": (80, 82), "Q3_K": (108, None), "Q4_K": (0, 2), "Q6_K": (208, None)} | dict.fromkeys(
    ("IQ3_S", "IQ4_NL"), (0, None)
)
TERNARY = {"IQ1_BN": 134, "IQ2_BN": 135}

# What stands for the output matrix, the embedding, those that lose most by rounding, and the rest.
MIXES = {
    "BF16": ("BF16", "BF16", "BF16", "BF16"),
    "IQ3_S": ("Q6_K", "IQ3_S", "IQ3_S", "IQ3_S"),
    "IQ4_NL": ("Q6_K", "IQ4_NL", "IQ4_NL", "IQ4_NL"),
    "Q2_K": ("Q6_K", "Q2_K", "Q3_K", "Q2_K"),
    "Q4_0": ("Q6_K", "Q4_0", "Q4_0", "Q4_0"),
    "Q4_K_M": ("Q6_K", "Q4_K", "Q6_K", "Q4_K"),
    "Q5_1": ("Q6_K", "Q5_1", "Q5_1", "Q5_1"),
    "Q6_K": ("Q6_K", "Q6_K", "Q6_K", "Q6_K"),
    "Q8_0": ("Q8_0", "Q8_0", "Q8_0", "Q8_0"),
    "TQ2_0": ("Q6_K", "Q4_K", "TQ2_0", "TQ2_0"),
}
BITNETS = {"bitnet": 8, "bitnet-25": 4, "bitnet-b1.58": 4}  # key heads of the wider ones


def wider(row: Row, n_embd: int, heads: int, kv: int, layer: Any) -> Row:
    """One layer of a row's architecture, wide enough for blocks of 256."""
    widths = {"feed_forward_length": 2 * n_embd, "attention.head_count": heads, "attention.head_count_kv": kv}
    return replace(row, keys=row.keys | widths, layer=layer, layers=1, n_embd=n_embd)


QUANT_ROWS = {f"llama-{mix}": wider(ROWS["llama"], 256, 4, 2, llama(512, 256, 4)) for mix in MIXES} | {
    f"{name}-{type}": wider(ROWS[name], 512, 8, kv, bitnet(kv, 8, 512))
    for name, kv in BITNETS.items()
    for type in ("iq1_bn", "iq2_bn")
}


def role_of(tensor: str) -> str:
    """A tensor's name without its layer."""
    return re.sub(r"^blk\.\d+\.", "", tensor)


def type_of(model: str, tensor: str, shape: tuple[int, ...]) -> str:
    """The type in which a model of the table holds a tensor."""
    kept = ("norm.weight", ".bias", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight", "sinks.weight")
    if len(shape) == 1 or tensor.endswith(kept) or model.endswith("F32"):
        return "F32"
    mix = model.rpartition("-")[2]
    if mix.endswith("_bn"):
        tied = "Q6_K" if "bitnet-25" not in model else "IQ4_NL"
        return {"token_embd.weight": tied, "output.weight": "Q6_K"}.get(tensor, mix.upper())
    if mix not in MIXES:
        return "F16"
    output, embedding, careful, rest = MIXES[mix]
    role = role_of(tensor)
    if mix == "Q2_K" and role == "attn_output.weight":
        return careful
    special = dict.fromkeys(("attn_v.weight", "ffn_down.weight"), careful)
    return {"output.weight": output, "token_embd.weight": embedding, **special}.get(role, rest)


def encoded(type: str, values: Values, rng: np.random.Generator) -> tuple[Bytes, Values]:
    """Bytes of a matrix about the size of `values`, and what they stand for."""
    if type in ("F32", "F16"):
        raw = values.astype(np.float32 if type == "F32" else np.float16)
        return raw.view(np.uint8).reshape(-1), raw.astype(np.float64)
    if type in TERNARY:
        return ternary(type, values)
    kind = gguf.GGMLQuantizationType[type]
    known = type in ENCODED
    raw = gguf.quantize(values.astype(np.float32), kind) if known else random_blocks(type, values, rng)
    return raw.reshape(-1), gguf.dequantize(raw, kind).astype(np.float64)


def random_blocks(type: str, values: Values, rng: np.random.Generator) -> Bytes:
    """Rows of random blocks, of mean 0 and the deviation of `values`."""
    kind = gguf.GGMLQuantizationType[type]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (values.size // block, size), np.uint8)
    scale, ratio = unit(type)
    sign = rng.choice([-1, 1], len(raw))  # codes are not symmetric
    for offset, factor in zip(HALVES[type], (1, ratio), strict=True):
        if offset is not None:
            halves = (sign * values.std() / scale * factor).astype(np.float16)
            raw[:, offset : offset + 2] = halves.view(np.uint8).reshape(-1, 2)
    return raw.reshape(len(values), -1)


@cache
def unit(type: str) -> tuple[float, float]:
    """The deviation of random blocks with scale 1, and the factor of what is subtracted that makes their mean 0."""
    kind = gguf.GGMLQuantizationType[type]
    raw = np.random.default_rng(0).integers(0, 256, (512, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)

    def decoded(*factors: float) -> Any:
        for offset, factor in zip(HALVES[type], factors, strict=True):
            if offset is not None:
                raw[:, offset : offset + 2] = np.array([factor], np.float16).view(np.uint8)
        return gguf.dequantize(raw, kind)

    mean, subtracted = decoded(1, 0).mean(), decoded(0, 1).mean()
    ratio = 0.0 if HALVES[type][1] is None else float(-mean / subtracted)
    return float(decoded(1, ratio).std()), ratio


def ternary(type: str, values: Values) -> tuple[Bytes, Values]:
    """Rows of -s, 0, s: the scale, then blocks of 64 trits."""
    scale = np.abs(values).max(axis=1, keepdims=True).astype(np.float16)
    trits = np.rint(values / scale).astype(np.int64) + 1
    blocks = trits.reshape(len(values), -1, 64)
    if type == "IQ2_BN":
        codes = (blocks.reshape(*blocks.shape[:2], 4, 16) << np.array([0, 2, 4, 6])[:, None]).sum(axis=2)
        head = scale.astype(np.float32)
    else:
        groups = blocks.reshape(*blocks.shape[:2], 4, 16)
        fives = byte_of(groups[..., :15].reshape(*groups.shape[:3], 3, 5)).reshape(*groups.shape[:2], 12)
        last = np.concatenate([groups[..., 15], np.ones((*groups.shape[:2], 1), int)], axis=-1)
        codes, head = np.concatenate([fives, byte_of(last)[..., None]], axis=-1), scale
    row = codes.reshape(len(values), -1).astype(np.uint8)
    return np.hstack([head.view(np.uint8), row]).reshape(-1), scale * (trits - 1.0)


def byte_of(trits: NDArray[np.int64]) -> NDArray[np.int64]:
    """The byte of five trits: trit j of byte v is (3 · ((v · 3^(4-j)) & 255)) >> 8."""
    v = np.arange(256)[:, None]
    digits = (3 * ((v * 3 ** (4 - np.arange(5))) & 255)) >> 8
    table = np.zeros(3**5, np.int64)
    powers = 3 ** np.arange(5)
    table[digits @ powers] = v[:, 0]
    found: NDArray[np.int64] = table[trits @ powers]
    return found
