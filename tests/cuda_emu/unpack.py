"""The numpy reference of the repacked weights: what each type's planes mean."""

import numpy as np
from numpy.typing import NDArray

from graphsched.backends.cuda.launch.codebook import TABLES
from graphsched.backends.cuda.launch.layout import ALIGN, KERNEL_TYPE, LAYOUTS, U8

F32 = NDArray[np.float32]
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16)
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int16)


def weights(name: str, packed: U8, rows: int, k: int) -> F32:
    """The values of a repacked tensor."""
    layout, parts, at = LAYOUTS[name], [], 0
    for n in layout.sizes(rows, k):
        parts.append(packed[at : at + n].reshape(rows, -1))
        at += -(-n // ALIGN) * ALIGN
    q, h, s, b, f = parts
    return _values(name, _codes(KERNEL_TYPE[name], q, h), s, b, f)


def _codes(name: str, q: U8, h: U8) -> NDArray[np.int16]:
    """[rows, k] integers before the scale."""
    n = len(q)
    if name in ("q2_k", "q3_k", "iq2_bn", "tq2_0"):
        low = _uncrumb(q)
    elif name == "q8_0":
        both = np.concatenate([q.reshape(n, -1, 16), h.reshape(n, -1, 16)], axis=-1).reshape(n, -1)
        return both.view(np.int8).astype(np.int16)
    elif name in ("iq4_nl", "iq4_xs", "mxfp4") or name in TABLES:
        table = FP4 if name == "mxfp4" else np.array(TABLES[name][0], np.int16) if name in TABLES else IQ4
        return table[np.stack([q & 15, q >> 4], axis=-1).reshape(n, -1)]
    else:
        low = _halves(q.reshape(n, -1, 16)).reshape(n, -1)
    if name == "q6_k":
        low = low | _uncrumb(h) << 4
    elif h.size:
        bits = np.unpackbits(h.reshape(n, -1, 1, 4), axis=2, bitorder="little").reshape(n, -1)
        low = low | bits << (2 if name == "q3_k" else 4)
    zero = {"q4_0": 8, "q5_0": 16, "q6_k": 32, "q3_k": 4, "iq2_bn": 1, "tq2_0": 1}.get(name, 0)
    return low.astype(np.int16) - zero


def _uncrumb(q: U8) -> U8:
    w = q.reshape(len(q), -1, 1, 4) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    return w.reshape(len(q), -1)


def _values(name: str, codes: NDArray[np.int16], s: U8, b: U8, f: U8) -> F32:
    """d * code + m, d and m spread over the weights they belong to."""
    rows, k = codes.shape
    m: F32 | float = 0.0
    if name in ("q4_0", "q5_0", "q8_0", "iq4_nl"):
        d = _half(s)
    elif name in ("q4_1", "q5_1"):
        d, m = _half(s)[:, 0::2], _half(s)[:, 1::2]
    elif name == "mxfp4":
        d = np.exp2(s.astype(np.float32) - 128)
    elif KERNEL_TYPE[name] == "iq2_bn":
        d = f.view("<f4")
    elif KERNEL_TYPE[name] == "tq2_0":
        d = _half(b)
    elif KERNEL_TYPE[name] in TABLES:
        d = (_half(b).repeat(16, 1) * s.view(np.int8) / TABLES[KERNEL_TYPE[name]][1]).astype(np.float32)
    elif name == "q2_k":
        d, m = _half(b)[:, 0::2].repeat(16, 1) * (s & 15), -_half(b)[:, 1::2].repeat(16, 1) * (s >> 4)
    elif name in ("q4_k", "q5_k"):
        d, m = _k_values(b.reshape(rows, -1, 16))
    else:
        d = _half(b).repeat(s.shape[1] // (k // 256), 1) * s.view(np.int8)
    spread = d.repeat(k // d.shape[1], 1) * codes
    return spread.astype(np.float32) + (m if isinstance(m, float) else m.repeat(k // m.shape[1], 1))


def _k_values(b: U8) -> tuple[F32, F32]:
    bits = np.unpackbits(b[..., 4:], axis=-1, bitorder="little").reshape(*b.shape[:2], 8, 2, 6)
    six = (bits << np.arange(6, dtype=np.uint8)).sum(-1)
    d = _half(b[..., :4].reshape(len(b), -1)).reshape(*b.shape[:2], 1, 2) * six
    return d[..., 0].reshape(len(b), -1).astype(np.float32), -d[..., 1].reshape(len(b), -1).astype(np.float32)


def _half(a: U8) -> F32:
    return np.ascontiguousarray(a).view("<f2").astype(np.float32)


def _halves(qs: U8) -> U8:
    """Low nibbles of 16 bytes, then high ones."""
    return np.concatenate([qs & 15, qs >> 4], axis=-1)
