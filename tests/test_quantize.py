"""`graphsched quantize`: what the searches leave of weights, which tensor gets which type, and the command."""

import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from running import model_path, window_losses
from shared import shared, with_references
from tiny.files import QUANTS

import graphsched
from graphsched.cli import main as cli
from graphsched.errors import Error
from graphsched.gguf.format import MetaValue
from graphsched.gguf.loader import ModelFile, open_model
from graphsched.gguf.write import aligned, encode_header
from graphsched.graph.tensor import TensorType
from graphsched.quantize import model
from graphsched.quantize.choose import QuantizeOptions, choose, parse_mix
from graphsched.quantize.imatrix import read_importance
from graphsched.synth import model as synth
from graphsched.synth.blocks import bitnet_block, llama_block
from graphsched.synth.layout import Layout, rope, sizes
from graphsched.synth.layouts import LAYOUTS
from graphsched.types import dtypes
from graphsched.types.dtypes import by_name

Floats = NDArray[np.float32]

# √(Σ i (x − y)² / Σ i x²) that llama.cpp's quantiser reaches on `outliers()`, without and with the importance i.
LLAMA_CPP = {
    "Q2_K": (0.333930, 0.246459),
    "Q3_K": (0.191556, 0.164677),
    "Q4_K": (0.090395, 0.077856),
    "Q5_K": (0.045482, 0.040197),
    "Q6_K": (0.025921, 0.023281),
    "IQ4_NL": (0.106136, 0.091796),
    "IQ4_XS": (0.107830, 0.095208),
    "Q4_0": (0.136629, 0.120623),
    "Q4_1": (0.097081, 0.074384),
    "Q5_0": (0.069014, 0.061915),
    "Q5_1": (0.046854, 0.036164),
}


def outliers() -> tuple[Floats, Floats]:
    """A matrix with statistics of trained ones, a few columns of large weights, and an importance."""
    rng = np.random.default_rng(11)
    x = (rng.standard_normal((256, 1024)) * 0.02).astype(np.float32)
    x[:, rng.choice(1024, 16, replace=False)] *= rng.uniform(3, 10, 16).astype(np.float32)
    return x, (rng.chisquare(1, 1024) + 0.01).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("name", LLAMA_CPP)
def test_errors_are_at_most_those_of_llama_cpp(name: str, weighted: bool) -> None:
    (x, importance), dtype = outliers(), by_name(name)
    given = importance if weighted else None
    y = dtype.dequantize(dtype.quantize(x, given), x.shape)
    i = importance if weighted else np.float32(1)
    assert math.sqrt(np.mean((x - y) ** 2 * i) / np.mean(x**2 * i)) <= LLAMA_CPP[name][weighted]


# Of a normal distribution; the smaller of two neighbours fails if codes or scales are packed in another order.
ROUND_TRIPS = {
    "F16": 3e-4,
    "BF16": 2e-3,
    "Q8_0": 6e-3,
    "MXFP4": 0.13,
    "IQ4_XS": 0.08,
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_round_trip(name: str) -> None:
    x = np.random.default_rng(3).standard_normal((8, 512)).astype(np.float16).astype(np.float32)
    y = by_name(name).dequantize(by_name(name).quantize(x), x.shape)
    assert np.sqrt(np.mean((x - y) ** 2)) < ROUND_TRIPS[name]


@pytest.mark.parametrize("name", ["IQ1_BN", "IQ2_BN", "IQ2_BN_R4", "I2_S", "TQ1_0", "TQ2_0"])
def test_ternary_weights_come_back_exactly(name: str) -> None:
    x = np.random.default_rng(4).integers(-1, 2, (16, 512)).astype(np.float32) * np.float32(0.0625)
    assert (by_name(name).dequantize(by_name(name).quantize(x), x.shape) == x).all()


@pytest.mark.parametrize(
    "name", [n for n in LLAMA_CPP if n.startswith(("Q2", "Q3", "Q4_K", "Q5_K", "Q6", "IQ4"))]
)
def test_special_blocks(name: str) -> None:
    dtype = by_name(name)
    zeros, ones = np.zeros((1, 256), np.float32), np.ones((1, 256), np.float32)
    assert (dtype.dequantize(dtype.quantize(zeros), (1, 256)) == 0).all()
    for x in (
        ones,
        -ones,
        ones * np.float32(0.01),
        np.where(np.arange(256) == 7, 1, zeros).astype(np.float32),
    ):
        np.testing.assert_allclose(
            dtype.dequantize(dtype.quantize(x), (1, 256)), x, atol=1e-2 * np.abs(x).max()
        )
    nothing_matters = dtype.quantize(ones, np.zeros(256, np.float32))
    assert np.isfinite(dtype.dequantize(nothing_matters, (1, 256))).all()


# --- which tensor gets which type ---


# There is no quantiser for grid types.
@pytest.mark.parametrize("name", with_references(n for n in QUANTS if "IQ3" not in n))
def test_mixes_are_those_of_files_that_llama_quantize_wrote(name: str) -> None:
    with open_model(model_path(name)) as file:
        mix = parse_mix(name.rpartition("-")[2])
        choices = choose(file, QuantizeOptions(mix=mix, allow_requantize=True))
        assert {c.source.name: c.dtype.name for c in choices} == {
            n: i.dtype.name for n, i in file.tensors.items()
        }
        assert mix is not None
        assert mix.file_type == file.metadata["general.file_type"]


@pytest.mark.parametrize("name", ["kimi-linear", "lfm2", "mamba2", "qwen35"])
def test_what_recurrent_ops_read_stays_as_it_is(name: str) -> None:
    """Their kernels know float32 only."""
    with open_model(model_path(name)) as file:
        choices = choose(file, QuantizeOptions(mix=parse_mix("Q8_0")))
    read = [
        c for c in choices if re.search(r"conv1d|\.conv\.|ssm_a$|ssm_d$|ssm_norm|ssm_dt\.bias", c.source.name)
    ]
    assert read
    assert all(c.is_copied for c in read)


def layout(layers: int, kv: int, ffn: int = 512, **more: int) -> Layout:
    keys = sizes(layers, 256, ffn, 8, kv, 512, 256) | rope(32, 1e4)
    return Layout("llama", "x", keys, llama_block)


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFile:
    """32 layers, four queries per key, F16, without data."""
    monkeypatch.setitem(LAYOUTS, "deep", layout(32, 2))
    synth.write("deep", tmp_path / "deep.gguf", "F16", extent="sparse")
    return open_model(tmp_path / "deep.gguf")


MORE = [
    0,
    1,
    2,
    3,
    6,
    9,
    12,
    15,
    18,
    21,
    24,
    27,
    28,
    29,
    30,
    31,
]  # what llama.cpp gives more bits in 32 layers


@pytest.mark.parametrize(
    ("mix", "values", "down", "output"),
    [
        ("Q2_K", {"Q4_K": range(32)}, {"Q3_K": range(32)}, "Q3_K"),
        ("Q2_K_S", {"Q4_K": range(32)}, {"Q4_K": range(4)}, "Q2_K"),
        ("Q3_K_S", {}, {}, "Q3_K"),
        ("Q3_K_M", {"Q5_K": (0, 1), "Q4_K": range(2, 32)}, {"Q5_K": (0, 1), "Q4_K": range(2, 32)}, "Q4_K"),
        ("Q3_K_L", {"Q5_K": range(32)}, {"Q5_K": range(32)}, "Q5_K"),
        ("Q4_K_S", {"Q5_K": range(4)}, {"Q5_K": range(4)}, "Q4_K"),
        ("Q4_K_M", {"Q6_K": MORE}, {"Q6_K": MORE}, "Q4_K"),
        ("Q5_K_S", {}, {}, "Q5_K"),
        ("Q5_K", {"Q6_K": MORE}, {"Q6_K": MORE}, "Q5_K"),
        ("IQ4_XS", {"Q5_K": range(32)}, {"Q5_K": range(4)}, "IQ4_XS"),
        ("7", {}, {}, "Q8_0"),
        ("TQ2_0", {}, {}, "TQ2_0"),
    ],
)
def test_mixes(deep: ModelFile, mix: str, values: dict[str, Any], down: dict[str, Any], output: str) -> None:
    found = parse_mix(mix)
    assert found is not None
    types = {c.source.name: c.dtype.name for c in choose(deep, QuantizeOptions(mix=found))}
    for part, wanted in {"attn_v": values, "ffn_down": down, "attn_output": {output: range(32)}}.items():
        by_layer = {i: t for t, layers in wanted.items() for i in layers}
        for i in range(32):
            assert types[f"blk.{i}.{part}.weight"] == by_layer.get(i, found.base), (part, i)
    assert types["output.weight"] == ("Q8_0" if found.base == "Q8_0" else "Q6_K")
    assert types["token_embd.weight"] == ("Q4_K" if mix == "TQ2_0" else found.base)
    assert types["blk.0.ffn_up.weight"] == found.base
    assert types["blk.0.ffn_norm.weight"] == types["output_norm.weight"] == "F32"


@pytest.mark.parametrize(
    ("mix", "got"),
    [
        ("Q2_K", "Q4_0"),
        ("Q4_K_S", "Q5_0"),
        ("Q6_K", "Q8_0"),
        ("IQ4_XS", "IQ4_NL"),
        ("TQ1_0", "Q4_0"),
        ("I2_S", "IQ4_NL"),
    ],
)
def test_rows_that_blocks_do_not_divide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mix: str, got: str
) -> None:
    monkeypatch.setitem(LAYOUTS, "odd", layout(2, 8, ffn=544))
    synth.write("odd", tmp_path / "odd.gguf", "F16", extent="sparse")
    with open_model(tmp_path / "odd.gguf") as file:
        choices = {c.source.name: c for c in choose(file, QuantizeOptions(mix=parse_mix(mix)))}
    assert choices["blk.1.ffn_down.weight"].dtype.name == got
    assert choices["blk.1.ffn_down.weight"].wanted is not choices["blk.1.ffn_down.weight"].dtype


# --- the command ---


def quantize(*args: object) -> int:
    return cli.run(["quantize", *map(str, args)])


def types_of(path: Path) -> dict[str, str]:
    with open_model(path) as file:
        return {name: info.dtype.name for name, info in file.tensors.items()}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two layers of BitNet, F16: ternary values in all matrices but the embedding."""
    keys = sizes(2, 256, 512, 4, 2, 320, 64) | rope(64, 5e5)
    small = Layout("bitnet-b1.58", "x", keys, bitnet_block)
    metadata: dict[str, MetaValue] = {"general.architecture": "bitnet-b1.58", "general.alignment": 32}
    metadata |= {f"bitnet-b1.58.{k}": v for k, v in keys.items()} | synth.vocabulary(320)
    rng, types, data = np.random.default_rng(5), {}, []
    for name, shape in small.shapes():
        types[name] = TensorType(dtypes.F32 if len(shape) == 1 else dtypes.F16, shape)
        is_plain = name in ("token_embd.weight", "output.weight") or len(shape) == 1
        draw = rng.standard_normal(shape) / 16 if is_plain else rng.integers(-1, 2, shape) * 0.03125
        data.append(types[name].dtype.quantize(draw.astype(np.float32)))
    path = tmp_path / "small.gguf"
    body = b"".join(raw.tobytes().ljust(aligned(raw.nbytes), b"\0") for raw in data)
    path.write_bytes(encode_header(metadata, types) + body)
    return path


def test_quantises_a_file(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.gguf"
    assert quantize(small, out, "q4_0", 2, "-v") == 0
    stdout, err = capsys.readouterr()
    assert stdout == ""
    assert (
        "[   1/  25] token_embd.weight                    - [  256,   320], type =    f16, converting to q4_0,"
        in err
    )
    assert "quant size  = " in err
    with open_model(small) as before, open_model(out) as after:
        assert after.metadata["general.file_type"] == 2
        assert "general.alignment" not in after.metadata
        assert after.encoded("tokenizer.ggml.scores") == before.encoded("tokenizer.ggml.scores")
        for name, info in after.tensors.items():
            x = before.array(name).astype(np.float32)
            kind = gguf.GGMLQuantizationType[info.dtype.name]
            if info.dtype.name == "Q4_0":
                assert (after.raw(name) == gguf.quants.quantize(x, kind).reshape(-1)).all()
            if info.dtype.name == "F32":
                assert (after.array(name) == x).all()


@pytest.mark.parametrize("mix", ["IQ1_BN", "IQ2_BN", "IQ2_BN_R4", "I2_S", "TQ2_0", "Q4_K_M"])
def test_bytes_do_not_depend_on_threads_and_pieces(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mix: str
) -> None:
    one, three = tmp_path / "one.gguf", tmp_path / "three.gguf"
    assert quantize(small, one, mix, 1) == 0
    monkeypatch.setattr(model, "_PIECE", 4096)
    assert quantize(small, three, mix, 3) == 0
    assert one.read_bytes() == three.read_bytes()
    types, is_bn = types_of(one), "BN" in mix
    assert types["output.weight"] == ("F16" if mix == "I2_S" else "Q6_K")
    assert types["token_embd.weight"] == {"I2_S": "F16", "TQ2_0": "Q4_K"}.get(
        mix, "IQ4_NL" if is_bn else "Q4_K"
    )
    with open_model(small) as before, open_model(one) as after:
        if mix != "Q4_K_M":
            name = "blk.1.ffn_down.weight"
            assert (after.array(name).reshape(256, 512) == before.array(name)).all()


def test_what_the_user_says_about_types(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    rules = ("--custom-q", r"blk\.0\.ffn_.*=q8_0,ffn_down=iq4_xs", "--tensor-type", "attn_k=f16")
    embedding = ("--token-embedding-type", "q5_0", "--output-tensor-type", "BF16")
    assert quantize(*rules, small, out, *embedding, "Q4_K_S") == 0
    types = types_of(out)
    assert types["blk.0.ffn_down.weight"] == types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["blk.1.ffn_down.weight"] == "IQ4_XS"
    assert types["blk.1.attn_k.weight"] == "F16"
    assert types["token_embd.weight"] == "Q5_0"
    assert types["output.weight"] == "BF16"
    assert types["blk.1.ffn_up.weight"] == "Q4_K"
    assert quantize(small, out, "--pure", "--leave-output-tensor", "q3_k_m") == 0
    types = types_of(out)
    assert types.pop("output.weight") == "F16"
    assert set(types.values()) == {"F32", "Q3_K"}


def test_requantising_is_asked_for(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    i2s, bn, copy = tmp_path / "i2s.gguf", tmp_path / "bn.gguf", tmp_path / "copy.gguf"
    assert quantize(small, i2s, "I2_S") == 0
    capsys.readouterr()
    assert quantize(i2s, bn, "IQ2_BN") == 2
    sentence = (
        "tensor blk.0.attn_q.weight is already I2_S; --allow-requantize takes it, which costs quality\n"
    )
    assert capsys.readouterr().err == f"graphsched: i2s.gguf: {sentence}"
    assert not bn.exists()
    assert quantize(i2s, bn, "--allow-requantize", "IQ2_BN") == 0
    with open_model(small) as before, open_model(bn) as after:
        for i in range(2):
            assert (after.array(f"blk.{i}.attn_q.weight") == before.array(f"blk.{i}.attn_q.weight")).all()
        assert after.tensors["token_embd.weight"].dtype.name == "IQ4_NL"
    assert quantize(bn, copy, "COPY") == 0
    assert types_of(copy) == types_of(bn)


def test_the_layout_that_i2_s_has_on_arm(small: Path, tmp_path: Path) -> None:
    """Groups of 64 weights, byte p of 16 with weight p in its highest bits, then p + 16, p + 32, p + 48."""
    i2s, bn, name = tmp_path / "i2s.gguf", tmp_path / "bn.gguf", "blk.1.ffn_down.weight"
    assert quantize(small, i2s, "I2_S") == 0
    with open_model(small) as before, open_model(i2s) as file:
        w, place = before.array(name).astype(np.float32), file.tensors[name]
    q = (np.sign(w).astype(np.int64) + 1).reshape(-1, 4, 16)
    arm = (q[:, 0] << 6 | q[:, 1] << 4 | q[:, 2] << 2 | q[:, 3]).astype(np.uint8).tobytes()
    raw = bytearray(i2s.read_bytes())
    raw[place.offset : place.offset + len(arm)] = arm
    i2s.write_bytes(raw)
    assert quantize(i2s, bn, "--allow-requantize", "--i2s-arm", "IQ2_BN") == 0
    with open_model(bn) as after:
        assert (after.array(name).reshape(w.shape) == w).all()


def test_a_type_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(LAYOUTS, "x", layout(1, 8))
    synth.write("x", tmp_path / "x.gguf", "IQ4_KS", extent="sparse")
    assert quantize(tmp_path / "x.gguf", tmp_path / "out.gguf", "Q4_0", "--allow-requantize") == 2
    what = "IQ4_KS: this type can be listed but not dequantised"
    assert capsys.readouterr().err == f"graphsched: x.gguf: tensor token_embd.weight: {what}\n"
    assert not (tmp_path / "out.gguf").exists()


def test_a_dry_run_writes_nothing(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(small, tmp_path / "out.gguf", "Q4_0", "--dry-run") == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 25
    told = float(err.split("quant size  =")[1].split()[0])
    assert not (tmp_path / "out.gguf").exists()
    assert quantize(small, tmp_path / "out.gguf", "Q4_0") == 0
    assert told == pytest.approx((tmp_path / "out.gguf").stat().st_size / 2**20, abs=0.03)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["IN", "x"], "missing argument 'TYPE'"),
        (["IN", "x", "Q4"], "no type Q4 to quantise to; did you mean "),
        (["IN", "x", "IQ2_XXS"], "IQ2_XXS is a grid type, which has no quantiser here; "),
        (["IN", "x", "iq2_k"], "no type iq2_k to quantise to; did you mean "),
        (["IN", "x", "Q4_0", "0"], "invalid value for '[NTHREADS]': is 0, an integer from 1 up is needed"),
        (["IN", "IN", "Q4_0"], "IN: is the file to be quantised, which is not overwritten"),
        (["IN", "no/x", "Q4_0"], "no/x: no such file or directory"),
        (["no", "x", "Q4_0"], "no: no such file or directory"),
        (
            ["IN", "x", "Q4_0", "--custom-q", "ffn"],
            "--custom-q ffn needs a pattern and a type, as in ffn_down=q6_k",
        ),
        (
            ["IN", "x", "Q4_0", "--custom-q", "(=q8_0"],
            "--custom-q (=q8_0: the pattern is no regular expression, ",
        ),
        (["IN", "x", "Q4_0", "--custom-q", "a=iq1_s"], "--custom-q iq1_s: IQ1_S: there is no code here that"),
        (
            ["IN", "x", "Q4_0", "--output-tensor-type", "q9"],
            "--output-tensor-type q9: tensor type q9 is unknown;",
        ),
        (["IN", "x", "Q4_0", "--imatrix", "no.dat"], "no.dat: no such file or directory"),
        (["IN", "x", "Q4_0", "--imatrix", "IN"], "IN: is a GGUF file, but no importance matrix"),
    ],
)
def test_a_bad_command_line_is_one_sentence_and_exit_2(
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(small.parent)
    small.rename("IN")
    assert quantize(*args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"graphsched: {sentence}")
    assert err.count("\n") == 1
    assert [p.name for p in Path().iterdir()] == ["IN"]


def test_weights_that_are_not_finite(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_model(small) as file:
        offset = file.tensors["blk.1.ffn_up.weight"].offset
    data = bytearray(small.read_bytes())
    data[offset + 100 : offset + 102] = b"\x00\x7c"
    small.write_bytes(data)
    out = tmp_path / "out.gguf"
    out.write_text("as before")
    assert quantize(small, out, "Q4_0") == 2
    assert "small.gguf: tensor blk.1.ffn_up.weight has weights that are not finite" in capsys.readouterr().err
    assert out.read_text() == "as before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", "small.gguf"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems name a file before it is whole")
def test_a_killed_run_leaves_nothing(small: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, graphsched.quantize.model as m; from graphsched.cli import main as cli\n"
        "m.aligned = lambda n: os.kill(os.getpid(), 9) if n else 0\n"
        "m.check_target = lambda *a: None; m.sum = lambda *a: 0\n"
        "cli.run(['quantize', *sys.argv[1:], 'Q4_0'])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(small), str(tmp_path / "out.gguf")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["small.gguf"]


# --- importance matrices ---


def old_imatrix(entries: dict[str, Floats], calls: int = 4) -> bytes:
    parts = [struct.pack("<i", len(entries))]
    for name, values in entries.items():
        raw = (values * calls).astype("<f4").tobytes()
        parts.append(
            struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size) + raw
        )
    return b"".join(parts) + struct.pack("<ii", 7, 8) + b"text.txt"


def gguf_imatrix(entries: dict[str, Floats], calls: int = 4) -> bytes:
    types: dict[str, TensorType] = {}
    data = []
    for name, values in entries.items():
        sums, counts = values.reshape(1, -1) * calls, np.full((1, 1), calls, np.float32)
        for suffix, array in {".in_sum2": sums, ".counts": counts}.items():
            types[name + suffix] = TensorType(dtypes.F32, array.shape)
            raw = array.astype("<f4").tobytes()
            data.append(raw.ljust(aligned(len(raw)), b"\0"))
    keys: dict[str, MetaValue] = {"general.type": "imatrix", "imatrix.chunk_count": 7}
    return encode_header(keys | {"imatrix.datasets": ("text.txt",)}, types) + b"".join(data)


@pytest.mark.parametrize("form", [old_imatrix, gguf_imatrix], ids=["old", "gguf"])
def test_an_importance_matrix(small: Path, tmp_path: Path, form: Any) -> None:
    rng = np.random.default_rng(8)
    values = {"output.weight": (rng.chisquare(1, 256) + 0.01).astype(np.float32)}
    path, plain, weighted = tmp_path / "i", tmp_path / "plain.gguf", tmp_path / "weighted.gguf"
    path.write_bytes(form(values))
    options = ("--pure", "Q3_K_S")
    assert quantize(small, plain, *options) == 0
    assert quantize(small, weighted, *options, "--imatrix", path) == 0
    with open_model(small) as before, open_model(plain) as a, open_model(weighted) as b:
        x, i = before.array("output.weight").astype(np.float32), values["output.weight"]
        left = [float(np.sum((f.array("output.weight") - x) ** 2 * i)) for f in (a, b)]
        assert left[1] < 0.9 * left[0]
        assert (a.raw("blk.0.attn_q.weight") == b.raw("blk.0.attn_q.weight")).all()
        assert b.metadata["quantize.imatrix.dataset"] == "text.txt"
        assert b.metadata["quantize.imatrix.chunks_count"] == 7
        assert b.metadata["quantize.imatrix.entries_count"] == 1


def test_a_broken_importance_matrix(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, whole = tmp_path / "i", old_imatrix({"output.weight": np.ones(256, np.float32)})
    for end in (*range(64), len(whole) - 4):
        path.write_bytes(whole[:end])
        with pytest.raises(Error, match="i: is no importance matrix, or is cut short"):
            read_importance(path)
    for values, sentence in {
        (255, 1.0): "i: tensor output.weight of shape [320, 256] has 255 values",
        (256, np.inf): "i: tensor output.weight has values that are not finite",
    }.items():
        path.write_bytes(old_imatrix({"output.weight": np.full(*values, np.float32)}))
        assert quantize(small, tmp_path / "o", "Q4_K_S", "--imatrix", path) == 2
        assert capsys.readouterr().err == f"graphsched: {sentence}\n"


# --- a real model ---


@pytest.mark.reference
@pytest.mark.parametrize("mix", ["Q8_0", "Q4_0"])
def test_perplexity_is_that_of_llama_cpp(tmp_path: Path, mix: str) -> None:
    expected = json.loads(shared("models/stories260K.json").read_text())["perplexity"][mix]
    assert quantize(shared("models/stories260K.gguf"), tmp_path / "m.gguf", mix) == 0
    session = graphsched.load(tmp_path / "m.gguf", n_ctx=256)
    ids = session.tokenizer.encode(shared("text/stories.txt").read_text(encoding="utf-8"))
    windows = [ids[start : start + 256] for start in range(0, len(ids) - 255, 256)]
    losses = [loss for window in windows for loss in window_losses(session, window)]
    assert np.exp(np.mean(losses)) == pytest.approx(expected, abs=0.01)
