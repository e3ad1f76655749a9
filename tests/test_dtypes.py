"""Tensor types: sizes, and decoders against `gguf.quants` or the layout written out weight by weight."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from shared import shared

from graphsched.errors import Error, ShapeError
from graphsched.gguf.loader import open_model
from graphsched.types import dtypes
from graphsched.types.dtypes import DType, by_id, by_name

KNOWN = [t for t in gguf.GGMLQuantizationType if t.name != "Q8_1"]
TERNARY = ["I2_S", "IQ1_BN", "IQ2_BN", "IQ2_BN_R4"]
IQ4_NL = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


@pytest.mark.parametrize("kind", KNOWN, ids=lambda t: t.name)
def test_sizes_are_those_of_gguf(kind: Any) -> None:
    t = by_id(int(kind))
    assert (t.name, t.block, t.nbytes) == (kind.name, *gguf.GGML_QUANT_SIZES[kind])
    assert t.row_bytes(2 * t.block) == 2 * t.nbytes


def test_table_is_consistent() -> None:
    types = dtypes.all_types()
    assert [t.id for t in types] == sorted({t.id for t in types})
    assert len({t.name for t in types}) == len(types)
    for t in types:
        assert by_id(t.id) is by_name(t.name.lower()) is t
        assert t.interleave == int(t.name.rpartition("_R")[2] if "_R" in t.name else 1)


# The others have a block of their own: fewer bits or another header than the type they are made from.
@pytest.mark.parametrize(
    "t",
    [
        t
        for t in dtypes.all_types()
        if t.interleave > 1 and t.name[:5] not in ("IQ1_S", "IQ1_M", "Q8_KV", "Q8_K_")
    ],
    ids=str,
)
def test_interleaved_rows_have_the_size_of_plain_ones(t: DType) -> None:
    plain = by_name(t.name.rpartition("_R")[0])
    assert t.tensor_bytes((3, 16, 512)) == plain.tensor_bytes((3, 16, 512))


def test_sizes_with_headers_and_tail() -> None:
    assert by_name("IQ1_BN").row_bytes(512) == 2 + 8 * 13
    assert by_name("IQ2_BN").row_bytes(512) == 4 + 8 * 16
    assert dtypes.IQ2_BN_R4.tensor_bytes((8, 512)) == 8 * (4 + 8 * 16)
    assert dtypes.I2_S.tensor_bytes((3, 640, 2560)) == 3 * 640 * 2560 // 4 + 32
    assert by_name("Q8_1").nbytes == 36
    assert dtypes.F32.tensor_bytes(()) == 4


def test_errors_are_sentences() -> None:
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: by_id(4), "type id 4 is unknown"),
        (lambda: dtypes.Q4_0.row_bytes(33), "Q4_0: a row of 33 is not a multiple of the block length 32"),
        (
            lambda: by_name("Q4_0_R8").tensor_bytes((6, 32)),
            "Q4_0_R8: 6 rows are not a multiple of the group of 8",
        ),
        (
            lambda: by_name("IQ2_BN_R4").tensor_bytes((64,)),
            "IQ2_BN_R4: 1 rows are not a multiple of the group of 4",
        ),
        (
            lambda: dtypes.F32.dequantize(np.zeros(7, np.uint8), (2,)),
            "F32: [2] takes 8 bytes, 7 are given",
        ),
        (
            lambda: by_name("IQ4_KS").dequantize(np.zeros(140, np.uint8), (256,)),
            "IQ4_KS: this type can be listed but not dequantised",
        ),
        (
            lambda: by_name("IQ2_XS").quantize(np.zeros(256, np.float32)),
            "IQ2_XS: there is no code here that quantises to this type",
        ),
    ]
    for call, expected in calls:
        with pytest.raises(Error) as caught:
            call()
        assert str(caught.value) == expected
    with pytest.raises(Error, match=r"^tensor type Q9 is unknown; known are F32, F16, "):
        by_name("Q9")
    with pytest.raises(ShapeError):
        dtypes.Q4_0.tensor_bytes(())


def test_import_leaves_gguf_alone() -> None:
    code = "import sys, graphsched.gguf.loader, graphsched.types.dtypes; sys.exit('gguf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- against gguf.quants ---


def finite(kind: Any, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random blocks; where a scale comes out infinite or NaN, zeros."""
    raw = rng.integers(0, 256, (shape[0], by_id(int(kind)).row_bytes(shape[1])), np.uint8)
    block = by_id(int(kind)).nbytes
    with np.errstate(all="ignore"):
        values = gguf.quants.dequantize(raw, kind).reshape(-1, by_id(int(kind)).block)
    raw.reshape(-1, block)[~(np.abs(values) < 1e30).all(axis=1)] = 0
    return raw


DECODED = [t for t in KNOWN if t in gguf.quants._type_traits]


@pytest.mark.parametrize("kind", DECODED, ids=lambda t: t.name)
def test_dequantize_equals_gguf(kind: Any) -> None:
    raw = finite(kind, (6, 512), np.random.default_rng(1))
    assert raw.any()
    found = by_id(int(kind)).dequantize(raw.reshape(-1), (2, 3, 512))
    assert found.dtype == np.float32
    assert (found.reshape(6, 512) == gguf.quants.dequantize(raw, kind)).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "BF16", "TQ1_0", "TQ2_0", "MXFP4"])
def test_quantize_equals_gguf(name: str) -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 256)).astype(np.float32)
    raw = by_name(name).quantize(x)
    assert (raw == gguf.quants.quantize(x, gguf.GGMLQuantizationType[name]).reshape(-1).view(np.uint8)).all()


@pytest.mark.parametrize("name", ["F32", "F16", "F64", "I8", "I16", "I32", "I64"])
def test_numpy_types(name: str) -> None:
    t, x = by_name(name), np.array([[1, -2, 3], [0, 100, -128]])
    assert t.numpy is not None
    assert t.numpy.itemsize == t.nbytes
    assert (t.dequantize(t.quantize(x), x.shape) == x).all()


# --- against the layout, weight by weight ---


def half(x: float) -> list[int]:
    return list(np.array(x, "<f2").tobytes())


def test_q8_1_and_q8_k() -> None:
    q = list(range(-128, 128, 8))
    raw = np.array(half(0.5) + half(9) + [v & 255 for v in q], np.uint8)
    assert by_name("Q8_1").dequantize(raw, (32,)).tolist() == [0.5 * v for v in q]
    q = list(range(-128, 128))
    raw = np.array(list(np.array(0.25, "<f4").tobytes()) + [v & 255 for v in q] + [7] * 32, np.uint8)
    assert by_name("Q8_K").dequantize(raw, (256,)).tolist() == [0.25 * v for v in q]


def test_q1_0() -> None:
    bits = np.random.default_rng(3).integers(0, 2, 128)
    raw = [sum(int(bits[8 * j + b]) << b for b in range(8)) for j in range(16)]
    found = by_name("Q1_0").dequantize(np.array(half(0.5) + raw, np.uint8), (128,))
    assert found.tolist() == [0.5 if b else -0.5 for b in bits]


def test_q6_0() -> None:
    q = np.random.default_rng(4).integers(0, 64, 32).tolist()
    qh, qs = [0] * 8, [q[j] & 15 | (q[j + 16] & 15) << 4 for j in range(16)]
    for j in range(16):
        qh[j % 8] |= (q[j] >> 4 | q[j + 16] >> 4 << 2) << 4 * (j // 8)
    found = by_name("Q6_0").dequantize(np.array(half(0.5) + qh + qs, np.uint8), (32,))
    assert found.tolist() == [0.5 * (v - 32) for v in q]


@pytest.mark.parametrize("name", TERNARY)
def test_ternary_round_trip(name: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.integers(-1, 2, (2, 8, 256)).astype(np.float32)
    x *= np.float32(0.5) if name == "I2_S" else rng.choice([0.5, 0.25, 2.0], (2, 8, 1)).astype(np.float32)
    x[0, 1] = 0
    t = by_name(name)
    raw = t.quantize(x)
    assert raw.nbytes == t.tensor_bytes(x.shape)
    assert (t.dequantize(raw, x.shape) == x).all()


def trit(byte: int, j: int) -> int:
    return 3 * (byte * (81, 27, 9, 3, 1)[j] & 255) >> 8


def iq1_bn(raw: bytes, i: int) -> int:
    g, k = divmod(i, 16)
    return trit(raw[12], g) if k == 15 else trit(raw[3 * g + k // 5], k % 5)


@pytest.mark.parametrize(
    ("name", "header", "code"),
    [
        ("IQ1_BN", "<f2", iq1_bn),
        ("IQ2_BN", "<f4", lambda raw, i: raw[i % 16] >> 2 * (i // 16) & 3),
    ],
)
def test_ternary_layout(name: str, header: str, code: Callable[[bytes, int], int]) -> None:
    t, scales = by_name(name), np.array([[0.5], [2.0]], header)
    raw = np.random.default_rng(6).integers(0, 243, (2, 3 * t.nbytes), np.uint8)
    found = t.dequantize(np.hstack([scales.view(np.uint8), raw]).reshape(-1), (2, 192))
    for r in range(2):
        for i in range(192):
            block = raw[r, i // 64 * t.nbytes :][: t.nbytes].tobytes()
            assert found[r, i] == scales[r, 0] * (code(block, i % 64) - 1)


def test_i2_s_layout() -> None:
    raw = np.random.default_rng(7).integers(0, 256, 3 * 32 + 32, np.uint8)
    raw[96:100] = np.array([0.5], "<f4").view(np.uint8)
    found = dtypes.I2_S.dequantize(raw, (3, 128))
    for i in range(384):
        byte = int(raw[i // 128 * 32 + i % 32])
        assert found.reshape(-1)[i] == 0.5 * ((byte >> 6 - 2 * (i % 128 // 32) & 3) - 1)


def test_iq2_bn_r4_layout() -> None:
    raw = np.random.default_rng(8).integers(0, 256, (2, 16 + 3 * 64), np.uint8)
    scales = np.array([[0.5, 2, 4, 1], [1, 1, 2, 8]], "<f4")
    raw[:, :16] = scales.view(np.uint8)
    found = dtypes.IQ2_BN_R4.dequantize(raw.reshape(-1), (8, 192))
    for row in range(8):
        for i in range(192):
            place, w = 16 + i // 64 * 64, i % 64
            byte = int(raw[row // 4, place + 4 * (row % 4) + w % 4 + w // 16 * 16])
            assert found[row, i] == scales[row // 4, row % 4] * ((byte >> 2 * (w % 16 // 4) & 3) - 1)


# One block of each row, from its scales and codes; j is the byte's index in the group, R its row.
def r4(d: NDArray[Any], q: list[list[int]], bits: int) -> list[int]:
    qs, qh = [0] * 64, [0] * (16 * (bits - 4))
    for row in range(4):
        for part in range(4):
            for i in range(4):
                first = q[row][i + 4 * (part // 2) + 16 * (part % 2)]
                second = q[row][i + 4 * (part // 2) + 16 * (part % 2) + 8]
                qs[16 * part + 4 * row + i] = first & 15 | (second & 15) << 4
                if bits == 5:
                    qh[4 * row + i] |= (first >> 4 | second >> 4 << 4) << part
                if bits == 6:
                    qh[4 * row + i + 16 * (part % 2)] |= (first >> 4 | second >> 4 << 4) << 2 * (part // 2)
    return list(d.astype("<f2").tobytes()) + qh + qs


def q4_0_r8(d: NDArray[Any], q: list[list[int]]) -> list[int]:
    qs = [q[j % 32 // 4][4 * (j // 32) + j % 4] for j in range(128)]
    high = [q[j % 32 // 4][4 * (j // 32) + j % 4 + 16] for j in range(128)]
    return list(d.astype("<f2").tobytes()) + [a | b << 4 for a, b in zip(qs, high, strict=True)]


def q8_0_r8(d: NDArray[Any], q: list[list[int]]) -> list[int]:
    qs = [q[j % 32 // 4][16 * (j // 128) + 4 * (j % 128 // 32) + j % 4] for j in range(256)]
    return list(d.astype("<f2").tobytes()) + qs


INTERLEAVED: dict[
    str, tuple[int, Callable[[NDArray[Any], list[list[int]]], list[int]], Callable[[int], int]]
] = {
    "Q4_0_R8": (16, q4_0_r8, lambda c: c - 8),
    "Q8_0_R8": (256, q8_0_r8, lambda c: c - 256 * (c > 127)),
    "IQ4_NL_R4": (16, lambda d, q: r4(d, q, 4), lambda c: IQ4_NL[c]),
    "Q5_0_R4": (32, lambda d, q: r4(d, q, 5), lambda c: c - 16),
    "Q6_0_R4": (64, lambda d, q: r4(d, q, 6), lambda c: c - 32),
}


@pytest.mark.parametrize("name", INTERLEAVED)
def test_interleaved_layout(name: str) -> None:
    codes, pack, value = INTERLEAVED[name]
    t, rng = by_name(name), np.random.default_rng(9)
    q = rng.integers(0, codes, (2, t.interleave, 3, 32))
    d = rng.integers(1, 9, (2, t.interleave, 3)) / 8
    raw = [b for g in range(2) for i in range(3) for b in pack(d[g, :, i], q[g, :, i].tolist())]
    found = t.dequantize(np.array(raw, np.uint8), (2 * t.interleave, 96))
    expected = d[..., None] * np.vectorize(value)(q)
    assert (found == expected.reshape(2 * t.interleave, 96)).all()


# --- against files that ik_llama.cpp wrote ---


@pytest.mark.reference
@pytest.mark.parametrize("stem", ["bitnet", "bitnet-25", "bitnet-b1.58"])
def test_both_bitnet_files_hold_one_model(stem: str) -> None:
    one, two = (open_model(shared(f"quants/{stem}-{t}.gguf")) for t in ("iq1_bn", "iq2_bn"))
    ternary = [n for n, t in one.tensors.items() if t.dtype is dtypes.IQ1_BN]
    assert len(ternary) == 7
    for name in ternary:
        a, b = one.array(name), two.array(name)
        assert two.tensors[name].dtype is dtypes.IQ2_BN
        assert set(np.unique(b)) == {-b.max(), 0, b.max()}
        assert (a == np.float32(np.float16(b.max())) * np.sign(b)).all()
        assert (two.raw(name) == dtypes.IQ2_BN.quantize(b)).all()
        assert (one.raw(name) == dtypes.IQ1_BN.quantize(b)).all()
