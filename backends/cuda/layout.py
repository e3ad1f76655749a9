"""Weights as the CUDA kernels read them: repacked from GGUF blocks into planes for coalesced 16-byte loads.

A tensor is up to five planes one after the other, each starting at a multiple of 256 bytes and row-major:
low bits (q), high bits (h), scales (s) per 32 weights, superblock headers (b) per 256, one float per row (f).
quants.cuh says how each type's bits lie in them; unpack.py is the numpy reference of that.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda import codebook
from graphsched.errors import ShapeError

U8 = NDArray[Any]  # of uint8; numpy's stubs widen what is shifted by a literal
ALIGN = 256
PART = 1 << 20  # bytes of file blocks that one thread repacks at once: intermediate results stay in its cache


@dataclass(frozen=True)
class Planes:
    """One tensor's planes as byte matrices, a row of weights each; absent planes have no columns."""

    q: U8
    h: U8 | None = None
    s: U8 | None = None
    b: U8 | None = None
    f: U8 | None = None


@dataclass(frozen=True)
class Layout:
    """A weight type: the file's block; bytes of each plane (q, h, s: per 32 weights, b: 256, f: a row)."""

    block: int
    nbytes: int
    q: int
    h: int
    s: int
    b: int
    f: int
    split: Callable[[U8], Planes]  # file blocks [rows, blocks, nbytes] → planes
    header: int = 0  # bytes in front of each row in the file

    def sizes(self, rows: int, k: int) -> tuple[int, ...]:
        """Bytes of each plane."""
        n = rows * k
        return n // 32 * self.q, n // 32 * self.h, n // 32 * self.s, n // 256 * self.b, rows * self.f

    def nbytes_of(self, rows: int, k: int) -> int:
        """Bytes of a repacked tensor: the stride between experts."""
        return sum(-(-n // ALIGN) * ALIGN for n in self.sizes(rows, k))

    def file_bytes(self, rows: int, k: int) -> int:
        """Bytes of the same tensor in the file."""
        return rows * (self.header + k // self.block * self.nbytes)


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


def iq2_bn_codes(b: U8) -> U8:
    """Blocks of 64 -> codes 0, 1, 2, a row of weights each."""
    codes = b[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    return codes.reshape(len(b), -1)


def iq1_bn_codes(b: U8) -> U8:
    """12 bytes of five trits and one byte of four, byte v: trit j = 3 (v 3^(4-j) mod 256) / 256."""
    power = np.array([81, 27, 9, 3, 1], np.uint8)
    trits = ((b[..., None] * power).astype(np.uint16) * 3 >> 8).astype(np.uint8)
    most, last = trits[:, :, :12].reshape(*b.shape[:2], 4, 15), trits[:, :, 12, :4, None]
    return np.concatenate([most, last], axis=-1).reshape(len(b), -1)


def _iq2_bn(b: U8) -> Planes:
    return Planes(_crumbs(iq2_bn_codes(b)))


def _iq1_bn(b: U8) -> Planes:
    return Planes(_crumbs(iq1_bn_codes(b)))


def _coded(name: str, b: U8) -> Planes:
    codes, scales, halves = codebook.coded(name, b)
    return Planes(_ordered(codes), s=scales, b=halves)


def _ternary(name: str, b: U8) -> Planes:
    codes, halves = codebook.ternary(name, b)
    return Planes(_crumbs(codes), b=halves)


def _bytes(a: NDArray[np.int8]) -> U8:
    return np.ascontiguousarray(a).view(np.uint8)


CODED = {
    "iq1_s": 50,
    "iq1_m": 56,
    "iq2_xxs": 66,
    "iq2_xs": 74,
    "iq2_s": 82,
    "iq3_xxs": 98,
    "iq3_s": 110,
}  # bytes
LAYOUTS: dict[str, Layout] = {
    "q4_0": Layout(32, 18, 16, 0, 2, 0, 0, _q4_0),
    "q4_1": Layout(32, 20, 16, 0, 4, 0, 0, _q4_1),
    "q5_0": Layout(32, 22, 16, 4, 2, 0, 0, _q5_0),
    "q5_1": Layout(32, 24, 16, 4, 4, 0, 0, _q5_1),
    "q8_0": Layout(32, 34, 16, 16, 2, 0, 0, _q8_0),
    "q2_k": Layout(256, 84, 8, 0, 2, 4, 0, _q2_k),
    "q3_k": Layout(256, 110, 8, 4, 2, 2, 0, _q3_k),
    "q4_k": Layout(256, 144, 16, 0, 0, 16, 0, _q4_k),
    "q5_k": Layout(256, 176, 16, 4, 0, 16, 0, _q5_k),
    "q6_k": Layout(256, 210, 16, 8, 2, 2, 0, _q6_k),
    "iq4_nl": Layout(32, 18, 16, 0, 2, 0, 0, _iq4_nl),
    "iq4_xs": Layout(256, 136, 16, 0, 1, 2, 0, _iq4_xs),
    "mxfp4": Layout(32, 17, 16, 0, 1, 0, 0, _mxfp4),
    "iq2_bn": Layout(64, 16, 8, 0, 0, 0, 4, _iq2_bn, header=4),
    "iq1_bn": Layout(64, 13, 8, 0, 0, 0, 4, _iq1_bn, header=2),  # the kernels' type is iq2_bn
    **{n: Layout(256, size, 16, 0, 2, 2, 0, partial(_coded, n)) for n, size in CODED.items()},
    "tq1_0": Layout(256, 54, 8, 0, 0, 2, 0, partial(_ternary, "tq1_0")),
    "tq2_0": Layout(256, 66, 8, 0, 0, 2, 0, partial(_ternary, "tq2_0")),
}
KERNEL_TYPE = {name: codebook.KERNEL_TYPE.get(name, name) for name in LAYOUTS} | {"iq1_bn": "iq2_bn"}


def repack(name: str, raw: U8, rows: int, k: int) -> U8:
    """A tensor's file bytes → what the kernels read."""
    layout, lines = LAYOUTS[name], file_rows(name, raw, rows, k)
    out = np.zeros(layout.nbytes_of(rows, k), np.uint8)
    in_parts(rows, PART // lines.shape[1], lambda part: _place(out, layout, lines, part, k))
    return out


def file_rows(name: str, raw: U8, rows: int, k: int) -> U8:
    """A tensor's file bytes, a row of weights each."""
    layout = LAYOUTS[name]
    if k % layout.block or raw.size != layout.file_bytes(rows, k):
        raise ShapeError(f"repack: {raw.size} bytes are not {name}[{rows},{k}]")
    return raw.reshape(rows, -1)


def in_parts(rows: int, step: int, work: Callable[[slice], None]) -> None:
    """Runs `work` on parts of so many rows, in threads."""
    step = max(1, step)
    parts = [slice(first, min(first + step, rows)) for first in range(0, rows, step)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, parts))


def header_scales(header: int, lines: U8) -> NDArray[np.float32]:
    """The scale in front of each row, of so many bytes."""
    return np.ascontiguousarray(lines[:, :header]).view("<f4" if header == 4 else "<f2").astype("<f4")


def _place(out: U8, layout: Layout, lines: U8, part: slice, k: int) -> None:
    """Repacks some rows; planes have a row's bytes together, so that parts do not touch."""
    rows, some = len(lines), np.ascontiguousarray(lines[part])
    p = layout.split(some[:, layout.header :].reshape(len(some), -1, layout.nbytes))
    planes = (
        p.q,
        p.h,
        p.s,
        p.b,
        header_scales(layout.header, some).view(np.uint8) if layout.header else None,
    )
    at = 0
    for plane, size in zip(planes, layout.sizes(rows, k), strict=True):
        if plane is not None and size:
            out[at : at + size].reshape(rows, -1)[part] = plane.reshape(len(some), -1)
        at += -(-size // ALIGN) * ALIGN
