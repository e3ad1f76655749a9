"""The numpy reference of packing/: a file's blocks → the planes and tiles that the kernels read.

unpack.py is the way back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.launch import ternary_tiles
from graphsched.backends.cuda.launch.codebook import KERNEL_TYPE, TABLES
from graphsched.backends.cuda.launch.layout import ALIGN, CODED, LAYOUTS, U8


@dataclass(frozen=True)
class Planes:
    """One tensor's planes as byte matrices, a row of weights each; absent planes have no columns."""

    q: U8
    h: U8 | None = None
    s: U8 | None = None
    b: U8 | None = None
    f: U8 | None = None


def repack(name: str, raw: U8, rows: int, k: int) -> U8:
    """A matrix's file bytes → its planes, each filled up with zeros."""
    layout, lines = LAYOUTS[name], raw.reshape(rows, -1)
    p = SPLITS[name](lines[:, layout.header :].reshape(rows, -1, layout.nbytes))
    scales = header_scales(layout.header, lines).view(np.uint8) if layout.header else None
    out = np.zeros(layout.nbytes_of(rows, k), np.uint8)
    at = 0
    for plane, size in zip((p.q, p.h, p.s, p.b, scales), layout.sizes(rows, k), strict=True):
        if plane is not None and size:
            out[at : at + size] = plane.reshape(-1)
        at += -(-size // ALIGN) * ALIGN
    return out


def tiles(name: str, raw: U8, rows: int, k: int) -> U8:
    """A ternary matrix's file bytes → its tiles, and behind them a float of scale for each row."""
    layout, lines = LAYOUTS[name], raw.reshape(rows, -1)
    codes = CODES[name](lines[:, layout.header :].reshape(rows, -1, layout.nbytes))
    packed = ternary_tiles.pack_codes(codes)
    return np.concatenate([packed, header_scales(layout.header, lines).reshape(-1).view(np.uint8)])


def header_scales(header: int, lines: U8) -> NDArray[np.float32]:
    """The scale in front of each row, of so many bytes."""
    return np.ascontiguousarray(lines[:, :header]).view("<f4" if header == 4 else "<f2").astype("<f4")


# ---- how codes become bits; a unit is 32 weights


def _units(codes: U8) -> U8:
    return codes.reshape(len(codes), -1, 32)


def _nibbles(codes: U8) -> U8:
    """Weights 0..15 of a unit in low nibbles, 16..31 in high ones."""
    u = _units(codes)
    return u[..., :16] | u[..., 16:] << 4


def _ordered(codes: U8) -> U8:
    """Nibble i holds weight i."""
    u = _units(codes)
    return u[..., 0::2] | u[..., 1::2] << 4


def _crumbs(codes: U8) -> U8:
    """Bits 8b + 2j of word g hold weight 16g + 4j + b."""
    u = codes.reshape(len(codes), -1, 2, 4, 4)
    return u[:, :, :, 0] | u[:, :, :, 1] << 2 | u[:, :, :, 2] << 4 | u[:, :, :, 3] << 6


def _bits(codes: U8) -> U8:
    """Bit 8b + w holds weight 4w + b."""
    return np.packbits(codes.reshape(len(codes), -1, 8, 4), axis=2, bitorder="little")


def _k_pairs(scale: U8, minimum: U8) -> U8:
    """8 scales and minima of 6 bits → 12 bytes, pair j at bit 12j."""
    pair = scale.astype(np.uint16) | minimum.astype(np.uint16) << 6
    bits = (pair[..., None] >> np.arange(12, dtype=np.uint16) & 1).astype(np.uint8)
    return np.packbits(bits.reshape(*pair.shape[:-1], 96), axis=-1, bitorder="little")


# ---- how the file's blocks become planes


def _halves(qs: U8) -> U8:
    """Bytes of 16 → 32 codes: low nibbles first."""
    return np.concatenate([qs & 15, qs >> 4], axis=-1)


def _chunks(qs: U8) -> U8:
    """K-quants: 128 bytes → 256 codes, each 32 bytes holding 32 low nibbles and then 32 high ones."""
    c = qs.reshape(*qs.shape[:2], 4, 32)
    return np.concatenate([c & 15, c >> 4], axis=-1).reshape(*qs.shape[:2], 256)


def _quarters(qs: U8) -> U8:
    """K-quants: 64 bytes → 256 codes of two bits, each 32 bytes holding four runs of 32."""
    c = qs.reshape(*qs.shape[:2], 2, 1, 32)
    return (c >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(*qs.shape[:2], 256)


def _flags(qh: U8) -> U8:
    """32 bytes, bit j → 8 runs of 32 codes of one bit."""
    return (qh[:, :, None] >> np.arange(8, dtype=np.uint8)[:, None] & 1).reshape(*qh.shape[:2], 256)


def _k_scales(sc: U8) -> tuple[U8, U8]:
    """12 bytes of Q4_K and Q5_K → 8 scales, 8 minima."""
    low, mid, high = sc[..., 0:4], sc[..., 4:8], sc[..., 8:12]
    scale = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=-1)
    return scale, np.concatenate([mid & 63, high >> 4 | mid >> 6 << 4], axis=-1)


def _flag_bits(qh: U8) -> U8:
    """4 bytes, bit i → 32 codes."""
    return np.unpackbits(qh, axis=-1, bitorder="little")


def _q4_0(b: U8) -> Planes:
    return Planes(b[..., 2:], s=b[..., :2])


def _q4_1(b: U8) -> Planes:
    return Planes(b[..., 4:], s=b[..., :4])


def _q5_0(b: U8) -> Planes:
    return Planes(b[..., 6:], _bits(_flag_bits(b[..., 2:6])), b[..., :2])


def _q5_1(b: U8) -> Planes:
    return Planes(b[..., 8:], _bits(_flag_bits(b[..., 4:8])), b[..., :4])


def _q8_0(b: U8) -> Planes:
    return Planes(b[..., 2:18], b[..., 18:], b[..., :2])


def _iq4_nl(b: U8) -> Planes:
    return Planes(_ordered(_halves(b[..., 2:])), s=b[..., :2])


def _mxfp4(b: U8) -> Planes:
    return Planes(_ordered(_halves(b[..., 1:])), s=b[..., :1])


def _iq4_xs(b: U8) -> Planes:
    low = np.stack([b[..., 4:8] & 15, b[..., 4:8] >> 4], axis=-1).reshape(*b.shape[:2], 8)
    high = np.ascontiguousarray(b[..., 2:4]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    scale = (low | high << 4).astype(np.int8) - 32
    return Planes(_ordered(_halves(b[..., 8:].reshape(*b.shape[:2], 8, 16))), s=_bytes(scale), b=b[..., :2])


def _q4_k(b: U8) -> Planes:
    header = np.concatenate([b[..., :4], _k_pairs(*_k_scales(b[..., 4:16]))], axis=-1)
    return Planes(_nibbles(_chunks(b[..., 16:])), b=header)


def _q5_k(b: U8) -> Planes:
    header = np.concatenate([b[..., :4], _k_pairs(*_k_scales(b[..., 4:16]))], axis=-1)
    return Planes(_nibbles(_chunks(b[..., 48:])), _bits(_flags(b[..., 16:48])), b=header)


def _q6_k(b: U8) -> Planes:
    ql = b[..., :128].reshape(*b.shape[:2], 2, 64)
    low = np.concatenate([ql & 15, ql >> 4], axis=-1).reshape(*b.shape[:2], 256)
    return Planes(_nibbles(low), _crumbs(_quarters(b[..., 128:192])), b[..., 192:208], b[..., 208:])


def _q3_k(b: U8) -> Planes:
    raw = b[..., 96:108]
    low = np.concatenate([raw[..., :8] & 15, raw[..., :8] >> 4], axis=-1)
    high = (raw[:, :, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(low.shape)
    scale = (low | high << 4).astype(np.int8) - 32
    return Planes(_crumbs(_quarters(b[..., 32:96])), _bits(_flags(b[..., :32])), _bytes(scale), b[..., 108:])


def _q2_k(b: U8) -> Planes:
    return Planes(_crumbs(_quarters(b[..., 16:80])), s=b[..., :16], b=b[..., 80:])


def _iq2_bn_codes(b: U8) -> U8:
    """Blocks of 64 -> codes 0, 1, 2, a row of weights each."""
    codes = b[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    return codes.reshape(len(b), -1)


def _iq1_bn_codes(b: U8) -> U8:
    """12 bytes of five trits and one byte of four, byte v: trit j = 3 (v 3^(4-j) mod 256) / 256."""
    power = np.array([81, 27, 9, 3, 1], np.uint8)
    trits = ((b[..., None] * power).astype(np.uint16) * 3 >> 8).astype(np.uint8)
    most, last = trits[:, :, :12].reshape(*b.shape[:2], 4, 15), trits[:, :, 12, :4, None]
    return np.concatenate([most, last], axis=-1).reshape(len(b), -1)


def _iq2_bn(b: U8) -> Planes:
    return Planes(_crumbs(_iq2_bn_codes(b)))


def _iq1_bn(b: U8) -> Planes:
    return Planes(_crumbs(_iq1_bn_codes(b)))


def _coded(name: str, b: U8) -> Planes:
    codes, scales, halves = codes_of(name, b)
    return Planes(_ordered(codes), s=scales, b=halves)


def _ternary(name: str, b: U8) -> Planes:
    codes, halves = trits_of(name, b)
    return Planes(_crumbs(codes), b=halves)


def _bytes(a: NDArray[np.int8]) -> U8:
    return np.ascontiguousarray(a).view(np.uint8)


# ---- values of codebook types → codes


def codes_of(name: str, blocks: U8) -> tuple[U8, U8, U8]:
    """File blocks → codes [rows, k], scale bytes per 16 weights, halves per superblock (as bytes)."""
    table, per = TABLES[KERNEL_TYPE.get(name, name)]
    d, odd = _scales(name, blocks)
    steps = np.array(table, np.float32)
    middles = (steps[1:] + steps[:-1]) / 2
    unit = (odd.astype(np.float32) / per).reshape(len(blocks), -1).repeat(16, axis=1)
    codes = np.searchsorted(middles, _values(name, _of_scale_1(name, blocks)) / unit)
    return codes.astype(np.uint8), odd, d[..., None].view(np.uint8)


def trits_of(name: str, blocks: U8) -> tuple[U8, U8]:
    """File blocks → codes 0, 1, 2 [rows, k], halves per superblock (as bytes)."""
    codes = np.rint(_values(name, _of_scale_1(name, blocks))) + 1
    return codes.astype(np.uint8), np.ascontiguousarray(blocks[..., -2:])


def _of_scale_1(name: str, blocks: U8) -> U8:
    """The same codes: a block's own scale says nothing about them, also where it is 0."""
    made = blocks.copy()
    if name == "iq1_m":  # four nibbles of 0x3C00
        made[..., 49::2] = made[..., 49::2] & 15 | np.array([0, 0, 0xC0, 0x30], np.uint8)
    else:
        at = blocks.shape[-1] - 2 if name in ("tq1_0", "tq2_0") else 0
        made[..., at : at + 2] = (0x00, 0x3C)
    return made


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


CODES: dict[str, Callable[[U8], U8]] = {"iq1_bn": _iq1_bn_codes, "iq2_bn": _iq2_bn_codes}
SPLITS: dict[str, Callable[[U8], Planes]] = {  # file blocks [rows, blocks, bytes] → planes
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "iq4_nl": _iq4_nl,
    "iq4_xs": _iq4_xs,
    "mxfp4": _mxfp4,
    "iq2_bn": _iq2_bn,
    "iq1_bn": _iq1_bn,
    **{n: partial(_coded, n) for n in CODED},
    **{n: partial(_ternary, n) for n in ("tq1_0", "tq2_0")},
}
