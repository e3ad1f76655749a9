"""Decoders and encoders, in numpy, of the block layouts that `gguf.quants` does not know."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SHIFTS: Final = np.array([0, 2, 4, 6], np.uint8)
IQ4_NL: Final = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
_POWERS: Final = np.array([1, 3, 9, 27, 81], np.uint16)


def _halves(b: Bytes) -> Floats:
    """[..., 2 n] bytes -> [..., n] of F16"""
    return b.copy().view("<f2").astype(np.float32)


def _nibbles(b: Bytes) -> Bytes:
    """[...] bytes -> [..., 2] four-bit codes, low one first."""
    return np.stack([b & np.uint8(15), b >> np.uint8(4)], axis=-1)


def _crumbs(b: Bytes) -> Bytes:
    """[...] bytes -> [..., 4] two-bit codes, lowest bits first."""
    return (b[..., None] >> _SHIFTS) & np.uint8(3)


def _bf16(rows: Bytes, tail: Bytes) -> Floats:
    return (rows.view("<u2").astype("<u4") << 16).view("<f4")


def _q8_1(rows: Bytes, tail: Bytes) -> Floats:
    blocks = rows.reshape(-1, 36)
    return _halves(blocks[:, :2]) * blocks[:, 4:].view(np.int8)


def _q8_k(rows: Bytes, tail: Bytes) -> Floats:
    blocks = rows.reshape(-1, 292)
    return blocks[:, :4].copy().view("<f4") * blocks[:, 4:260].view(np.int8)


def _q1_0(rows: Bytes, tail: Bytes) -> Floats:
    blocks = rows.reshape(-1, 18)
    signs = np.unpackbits(blocks[:, 2:], axis=1, bitorder="little").astype(np.float32) * 2 - 1
    return _halves(blocks[:, :2]) * signs


def _q6_0(rows: Bytes, tail: Bytes) -> Floats:
    blocks = rows.reshape(-1, 26)
    low = _nibbles(blocks[:, 10:])  # [.., 16, 2]
    high = _crumbs(blocks[:, 2:10])  # [.., 8, 4]: codes of weights j, j + 16, j + 8, j + 24
    high = high.reshape(-1, 8, 2, 2).transpose(0, 3, 2, 1).reshape(-1, 32)
    q = low.swapaxes(1, 2).reshape(-1, 32) | high << np.uint8(4)
    return _halves(blocks[:, :2]) * (q.astype(np.float32) - 32)


def _ternary(scale: NDArray[np.floating], q: Bytes) -> Floats:
    """scale [R, 1] and codes [R, K] -> scale · (q - 1)"""
    return scale.astype(np.float32) * (q.astype(np.float32) - 1)


def _codes(rows: Floats) -> tuple[Floats, Bytes]:
    """Rows -> scale max|x| [R, 1] and codes [R, K]: 1 below half the scale, else 0 or 2 by sign."""
    scale = np.abs(rows).max(axis=1, keepdims=True)
    q = np.where(np.abs(rows) < scale / 2, 1, np.where(rows < 0, 0, 2))
    return scale, np.where(scale == 0, 1, q).astype(np.uint8)


def _pack_crumbs(q: Bytes) -> Bytes:
    return np.bitwise_or.reduce(q << _SHIFTS, axis=-1)


def _trits(b: Bytes) -> Bytes:
    """[...] bytes -> [..., 5] base-3 digits, lowest first."""
    v = b[..., None].astype(np.uint16) * _POWERS[::-1] & 255
    return (3 * v >> 8).astype(np.uint8)


def _pack_trits(q: Bytes) -> Bytes:
    return ((256 * (q * _POWERS[: q.shape[-1]]).sum(axis=-1) + 242) // 243).astype(np.uint8)


def _iq1_bn(rows: Bytes, tail: Bytes) -> Floats:
    b = rows[:, 2:].reshape(rows.shape[0], -1, 13)
    fives = _trits(b[..., :12]).reshape(*b.shape[:2], 4, 15)
    q = np.concatenate([fives, _trits(b[..., 12])[..., :4, None]], axis=-1)  # [R, B, 4, 16]
    return _ternary(rows[:, :2].copy().view("<f2"), q.reshape(rows.shape[0], -1))


def _to_iq1_bn(rows: Floats) -> Bytes:
    scale, q = _codes(rows)
    q = q.reshape(rows.shape[0], -1, 4, 16)
    fives = _pack_trits(q[..., :15].reshape(*q.shape[:2], 12, 5))
    blocks = np.concatenate([fives, _pack_trits(q[..., 15])[..., None]], axis=-1)
    return _with_headers(scale.astype("<f2"), blocks)


def _q8_kv(rows: Bytes, tail: Bytes) -> Floats:
    return rows[:, :4].copy().view("<f4") * rows[:, 8:].view(np.int8)


def _to_q8_kv(rows: Floats) -> Bytes:
    """Codes with the scale of the row, and their sum, in front."""
    scale = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    codes = np.rint(rows * inverse).astype(np.int8)
    total = codes.sum(axis=1, dtype=np.int32, keepdims=True)
    return np.hstack(
        [scale.astype("<f4").view(np.uint8), total.astype("<i4").view(np.uint8), codes.view(np.uint8)]
    )


def _iq2_bn(rows: Bytes, tail: Bytes) -> Floats:
    q = _crumbs(rows[:, 4:].reshape(rows.shape[0], -1, 16))  # [R, B, 16, 4]
    return _ternary(rows[:, :4].copy().view("<f4"), q.swapaxes(2, 3).reshape(rows.shape[0], -1))


def _to_iq2_bn(rows: Floats) -> Bytes:
    scale, q = _codes(rows)
    blocks = _pack_crumbs(q.reshape(rows.shape[0], -1, 4, 16).swapaxes(2, 3))
    return _with_headers(scale.astype("<f4"), blocks)


def _iq2_bn_r4(rows: Bytes, tail: Bytes) -> Floats:
    groups = rows.reshape(rows.shape[0] // 4, -1)
    q = _crumbs(groups[:, 16:].reshape(groups.shape[0], -1, 4, 4, 4))  # [G, B, l, row, i, c]
    q = q.transpose(0, 3, 1, 2, 5, 4).reshape(rows.shape[0], -1)
    return _ternary(groups[:, :16].copy().view("<f4").reshape(-1, 1), q)


def _to_iq2_bn_r4(rows: Floats) -> Bytes:
    scale, q = _codes(rows)
    q = q.reshape(rows.shape[0] // 4, 4, -1, 4, 4, 4).transpose(0, 2, 3, 1, 5, 4)
    return _with_headers(scale.astype("<f4").reshape(-1, 4), _pack_crumbs(q))


def _i2_s(rows: Bytes, tail: Bytes) -> Floats:
    q = _crumbs(rows.reshape(-1, 32))[..., ::-1]  # the first 32 weights are in the highest bits
    return _ternary(tail[:4].copy().view("<f4")[:, None], q.swapaxes(1, 2).reshape(rows.shape[0], -1))


def i2_s_of_arm(rows: Bytes) -> Bytes:
    """Rows of I2_S in ARM's layout, groups of 64 weights in 16 bytes, to that of x86, 128 in 32, which is ours."""
    q = _crumbs(rows.reshape(-1, 16))[..., ::-1].swapaxes(1, 2).reshape(-1, 4, 32)
    return _pack_crumbs(q.swapaxes(1, 2)[..., ::-1]).reshape(rows.shape)


def _to_i2_s(rows: Floats) -> Bytes:
    scale = np.abs(rows).max()
    q = np.where(np.abs(rows) < 1e-6, 1, np.where(rows < 0, 0, 2)).astype(np.uint8)
    blocks = _pack_crumbs(q.reshape(-1, 4, 32).swapaxes(1, 2)[..., ::-1])
    return np.concatenate([blocks.reshape(-1), np.full(8, scale, "<f4").view(np.uint8)])


def _with_headers(header: NDArray[np.floating], blocks: Bytes) -> Bytes:
    """Headers [R, H] in front of the blocks of each row."""
    return np.concatenate([header.view(np.uint8), blocks.reshape(header.shape[0], -1)], axis=1)


def _blocks(rows: Bytes, group: int, block: int) -> Bytes:
    """The interleaved blocks of groups of rows, [G, B, group * block]."""
    return rows.reshape(rows.shape[0] // group, -1, group * block)


def _scaled(d: Bytes, q: NDArray[Any], rows: int) -> Floats:
    """F16 scales [G, B, R] and values [G, R, B, 32] -> [G * R, K]"""
    return (_halves(d).swapaxes(1, 2)[..., None] * q.astype(np.float32)).reshape(rows, -1)


def _q8_0_r8(rows: Bytes, tail: Bytes) -> Floats:
    b = _blocks(rows, 8, 34)
    q = b[..., 16:].reshape(*b.shape[:2], 2, 4, 8, 4).transpose(0, 4, 1, 2, 3, 5)  # [G, R, B, half, l, i]
    return _scaled(b[..., :16], q.reshape(b.shape[0], 8, -1, 32).view(np.int8), rows.shape[0])


def _q4_0_r8(rows: Bytes, tail: Bytes) -> Floats:
    b = _blocks(rows, 8, 18)
    q = _nibbles(b[..., 16:].reshape(*b.shape[:2], 4, 8, 4))  # [G, B, l, R, i, half]
    q = q.transpose(0, 3, 1, 5, 2, 4).reshape(b.shape[0], 8, -1, 32)
    return _scaled(b[..., :16], q.astype(np.int8) - 8, rows.shape[0])


# Of four rows, weight 16 s + 8 h + 4 a + i of row R is in half-byte h of byte 16 (2 a + s) + 4 R + i.
def _nibbles_r4(qs: Bytes) -> Bytes:
    """[G, B, 64] bytes -> four-bit codes [G, R, B, 32]"""
    q = _nibbles(qs.reshape(*qs.shape[:2], 2, 2, 4, 4))  # [G, B, a, s, R, i, h]
    return q.transpose(0, 4, 1, 3, 6, 2, 5).reshape(qs.shape[0], 4, -1, 32)


def _iq4_nl_r4(rows: Bytes, tail: Bytes) -> Floats:
    b = _blocks(rows, 4, 18)
    return _scaled(b[..., :8], IQ4_NL[_nibbles_r4(b[..., 8:])], rows.shape[0])


def _q5_0_r4(rows: Bytes, tail: Bytes) -> Floats:
    b = _blocks(rows, 4, 22)
    bits = np.unpackbits(b[..., 8:24], axis=-1, bitorder="little")
    bits = bits.reshape(*b.shape[:2], 4, 4, 2, 2, 2)  # [G, B, R, i, h, a, s]
    high = bits.transpose(0, 2, 1, 6, 4, 5, 3).reshape(b.shape[0], 4, -1, 32)
    q = _nibbles_r4(b[..., 24:]) | high << np.uint8(4)
    return _scaled(b[..., :8], q.astype(np.int8) - 16, rows.shape[0])


def _q6_0_r4(rows: Bytes, tail: Bytes) -> Floats:
    b = _blocks(rows, 4, 26)
    bits = _crumbs(b[..., 8:40]).reshape(*b.shape[:2], 2, 4, 4, 2, 2)  # [G, B, s, R, i, h, a]
    high = bits.transpose(0, 3, 1, 2, 5, 6, 4).reshape(b.shape[0], 4, -1, 32)
    q = _nibbles_r4(b[..., 40:]) | high << np.uint8(4)
    return _scaled(b[..., :8], q.astype(np.int8) - 32, rows.shape[0])


DECODERS: Final[dict[str, Callable[[Bytes, Bytes], Floats]]] = {
    "BF16": _bf16,
    "Q8_1": _q8_1,
    "Q8_K": _q8_k,
    "Q8_KV": _q8_kv,
    "Q1_0": _q1_0,
    "Q6_0": _q6_0,
    "I2_S": _i2_s,
    "IQ1_BN": _iq1_bn,
    "IQ2_BN": _iq2_bn,
    "IQ2_BN_R4": _iq2_bn_r4,
    "Q4_0_R8": _q4_0_r8,
    "Q5_0_R4": _q5_0_r4,
    "Q6_0_R4": _q6_0_r4,
    "Q8_0_R8": _q8_0_r8,
    "IQ4_NL_R4": _iq4_nl_r4,
}
ENCODERS: Final[dict[str, Callable[[Floats], Bytes]]] = {
    "Q8_KV": _to_q8_kv,
    "I2_S": _to_i2_s,
    "IQ1_BN": _to_iq1_bn,
    "IQ2_BN": _to_iq2_bn,
    "IQ2_BN_R4": _to_iq2_bn_r4,
}
