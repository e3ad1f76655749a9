"""Repacking of the codebook types (IQ1, IQ2, IQ3) and the ternary ones (TQ): values → codes of a small table."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[Any]  # of uint8
# kernel type → (values by code, what the scale is divided by); quants.cuh has the same tables
TABLES = {
    "iq3_s": (range(-15, 16, 2), 1),
    "iq3_xxs": ((-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62), 4),
    "iq2_s": ((-43, -25, -8, 8, 25, 43), 8),
    "iq1_s": ((-9, -7, -1, 1, 7, 9), 8),
}
ONE_SCALE = ("iq3_s", "iq3_xxs")  # both halves of a unit have the same: int8.cuh reads one
KERNEL_TYPE = {"iq2_xxs": "iq2_s", "iq2_xs": "iq2_s", "iq1_m": "iq1_s", "tq1_0": "tq2_0"}


def coded(name: str, blocks: U8) -> tuple[U8, U8, U8]:
    """File blocks → codes [rows, k], scale bytes per 16 weights, halves per superblock (as bytes)."""
    table, per = TABLES[KERNEL_TYPE.get(name, name)]
    d, odd = _scales(name, blocks)
    steps = np.array(table, np.float32)
    middles = (steps[1:] + steps[:-1]) / 2
    unit = (d.astype(np.float32)[..., None] * odd / per).reshape(len(blocks), -1).repeat(16, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.searchsorted(middles, np.where(unit != 0, _values(name, blocks) / unit, 0))
    return codes.astype(np.uint8), odd.astype(np.uint8), d[..., None].view(np.uint8)


def ternary(name: str, blocks: U8) -> tuple[U8, U8]:
    """File blocks → codes 0, 1, 2 [rows, k], halves per superblock (as bytes)."""
    half = np.ascontiguousarray(blocks[..., -2:])
    d = half.view(np.float16).astype(np.float32).repeat(256, axis=-1).reshape(len(blocks), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.rint(np.where(d != 0, _values(name, blocks) / d, 0)) + 1
    return codes.astype(np.uint8), half


def _values(name: str, blocks: U8) -> NDArray[np.float32]:
    """gguf's numpy dequantisation; imported on use, because it builds codebooks."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    lines = np.ascontiguousarray(blocks).reshape(len(blocks), -1)
    values: NDArray[np.float32] = dequantize(lines, GGMLQuantizationType[name.upper()])
    return values


def _scales(name: str, b: U8) -> tuple[NDArray[np.float16], U8]:
    """The superblock's half, and the odd factor 2s + 1 of each 16 weights."""
    words = partial(_words, b)
    if name == "iq1_m":
        sc = words(48, 8, "<u2")
        d = sc[..., 0] >> 12 | sc[..., 1] >> 8 & 0xF0 | sc[..., 2] >> 4 & 0xF00 | sc[..., 3] & 0xF000
        s = (sc[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(*b.shape[:2], 16)
        return d.astype(np.uint16).view(np.float16), (2 * s + 1).astype(np.uint8)
    if name in ("iq2_xxs", "iq3_xxs"):  # the top four bits of the words that hold signs
        s = (words(2, 64, "<u4")[..., 1::2] if name == "iq2_xxs" else words(66, 32, "<u4")) >> 28
    elif name == "iq1_s":
        s = words(34, 16, "<u2") >> 12 & 7
    else:  # nibbles at the end of the block
        at = {"iq2_xs": 66, "iq2_s": 74, "iq3_s": 106}[name]
        s = np.stack([b[..., at:] & 15, b[..., at:] >> 4], axis=-1).reshape(*b.shape[:2], -1)
    odd = (2 * s + 1).astype(np.uint8).repeat(16 // s.shape[-1], axis=-1)
    return words(0, 2, "<f2")[..., 0], odd


def _words(b: U8, at: int, nbytes: int, dtype: str) -> NDArray[Any]:
    return np.ascontiguousarray(b[..., at : at + nbytes]).view(dtype)
