"""Model files: what a good one gives."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import gguf_files as g
import numpy as np
import pytest
from rich.console import Console
from running import model_path
from shared import with_references
from tiny.files import MODELS, QUANTS

from graphsched.cli.inspect import render, summary
from graphsched.errors import LoadError
from graphsched.gguf.loader import open_model

SMALL = g.small()
VOCABULARIES = ["llama-spm", "gpt-2", "deepseek-llm", "qwen2"]


@pytest.mark.parametrize("version", [2, 3])
def test_small_file(tmp_path: Path, version: int) -> None:
    data = SMALL[:4] + struct.pack("<I", version) + SMALL[8:]
    with open_model(g.write(tmp_path, data)) as m:
        assert (m.version, m.alignment, m.parts) == (version, 32, (tmp_path / "x.gguf",))
        assert {n: (t.shape, t.dtype.name, t.nbytes) for n, t in m.tensors.items()} == {
            "token_embd.weight": ((2, 32), "Q4_0", 36),
            "norm.weight": ((3,), "F32", 12),
            "half.weight": ((2, 2), "F16", 8),
            "blk.0.ffn_up.weight": ((1, 64), "IQ2_BN", 20),
        }
        assert m.array("norm.weight").tolist() == [1, 2, 3]
        assert m.array("half.weight").tolist() == [[1, 2], [3, 4]]
        assert m.array("half.weight").dtype == np.float16
        assert m.array("blk.0.ffn_up.weight").tolist() == [[0.0] * 64]
        assert m.array("token_embd.weight").dtype == np.float32
        assert m.raw("token_embd.weight").tobytes() == bytes(range(36))


def test_views_are_the_map_itself(tmp_path: Path) -> None:
    m = open_model(g.write(tmp_path, SMALL))
    raw, again = m.raw("norm.weight"), m.array("norm.weight")
    assert not raw.flags.writeable
    assert not again.flags.writeable
    assert np.shares_memory(raw, again)
    assert m.address("norm.weight") == raw.ctypes.data
    assert m.address("half.weight") - m.address("norm.weight") == 32


def test_arrays_survive_close(tmp_path: Path) -> None:
    m = open_model(g.write(tmp_path, SMALL))
    norm = m.array("norm.weight")
    m.close()
    m.close()
    assert norm.tolist() == [1, 2, 3]
    with pytest.raises(LoadError, match=r"^x\.gguf: the model is closed$"):
        m.raw("norm.weight")


def test_every_metadata_type(tmp_path: Path) -> None:
    numbers = {kind: -3 if code.islower() and kind != g.BOOL else 3 for kind, code in g.SCALARS.items()}
    keys = [g.key(f"one.{kind}", kind, n) for kind, n in numbers.items()]
    keys += [g.array(f"many.{kind}", kind, [n, 0]) for kind, n in numbers.items()]
    m = open_model(g.write(tmp_path, g.gguf(keys)))
    for kind, n in numbers.items():
        expected = bool(n) if kind == g.BOOL else n
        found = m.metadata[f"one.{kind}"]
        assert found == expected
        assert type(found) is (float if kind in (g.FLOAT32, g.FLOAT64) else type(expected))
        many = m.get(f"many.{kind}", np.ndarray)
        assert many.tolist() == [expected, 0]
        assert not many.flags.writeable


def test_strings_keep_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    tokens = open_model(g.write(tmp_path, SMALL)).get("tokenizer.ggml.tokens", tuple)
    assert [t.encode("utf-8", "surrogateescape") for t in tokens] == [b"<s>", b"\xff\xfe", "é".encode()]


def test_get_checks_the_kind(tmp_path: Path) -> None:
    m = open_model(g.write(tmp_path, SMALL))
    assert m.get("llama.block_count", int) == 1
    assert m.get("llama.block_count", float) == 1.0
    assert m.get("missing", int, 7) == 7
    assert m.get("missing", int, None) is None
    for key, kind, expected in [
        ("llama.expert_count", int, "missing key llama.expert_count"),
        ("general.architecture", int, "key general.architecture is a string, an integer is needed"),
        ("llama.block_count", str, "key llama.block_count is an integer, a string is needed"),
        ("llama.rope.freq_base", int, "key llama.rope.freq_base is a number, an integer is needed"),
        (
            "tokenizer.ggml.add_bos_token",
            int,
            "key tokenizer.ggml.add_bos_token is a bool, an integer is needed",
        ),
        (
            "tokenizer.ggml.tokens",
            str,
            "key tokenizer.ggml.tokens is an array of strings, a string is needed",
        ),
        (
            "tokenizer.ggml.scores",
            float,
            "key tokenizer.ggml.scores is an array of numbers, a number is needed",
        ),
        ("llama.block_count", tuple, "key llama.block_count is an integer, an array of strings is needed"),
    ]:
        with pytest.raises(LoadError) as caught:
            m.get(key, kind)
        assert str(caught.value) == f"x.gguf: {expected}"


def test_unknown_tensor_name(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^x\.gguf: there is no tensor nope$"):
        open_model(g.write(tmp_path, SMALL)).raw("nope")


def test_type_without_decoder_lists(tmp_path: Path) -> None:
    data = g.gguf([], [g.tensor("w", (256, 4), 212)], bytes(4 * 144))
    m = open_model(g.write(tmp_path, data))
    assert str(m.tensors["w"].dtype) == "Q4_K_R4"
    with pytest.raises(LoadError) as caught:
        m.array("w")
    expected = "x.gguf: tensor w: Q4_K_R4: this type can be listed but not dequantised"
    assert str(caught.value) == expected


def test_header_only(tmp_path: Path) -> None:
    header = SMALL[: SMALL.index(b"\0" * 8 + bytes(range(36)))] + bytes(8)
    path = g.write(tmp_path, header)
    with pytest.raises(LoadError, match=r"^x\.gguf: tensor token_embd\.weight ends 36 bytes past the end"):
        open_model(path)
    m = open_model(path, header_only=True)
    assert m.tensors["norm.weight"].nbytes == 12
    with pytest.raises(LoadError, match=r"^x\.gguf: the data of tensor norm\.weight is not in the file$"):
        m.array("norm.weight")


def test_scalar_and_four_dimensions(tmp_path: Path) -> None:
    tensors = [g.tensor("s", (), 0), g.tensor("t", (2, 3, 4, 5), 26, 32)]
    m = open_model(g.write(tmp_path, g.gguf([], tensors, bytes(32) + np.arange(120, dtype="<i4").tobytes())))
    assert m.array("s").shape == ()
    assert (m.array("t") == np.arange(120).reshape(5, 4, 3, 2)).all()


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_split_file(tmp_path: Path, opened: int) -> None:
    paths = g.split(tmp_path)
    m = open_model(paths[opened])
    assert m.parts == tuple(paths)
    assert m.get("general.architecture", str) == "llama"
    assert [(t.name, t.part) for t in m.tensors.values()] == [("t0", 0), ("t1", 1), ("t2", 2)]
    assert [m.array(f"t{i}")[7] for i in range(3)] == [0, 1, 2]


def test_split_of_one(tmp_path: Path) -> None:
    assert list(open_model(g.split(tmp_path, 1)[0]).tensors) == ["t0"]


def test_summary_shortens_and_escapes(tmp_path: Path) -> None:
    keys = [
        g.key("general.name", g.STRING, "[red]a\x1b[31m\nb"),
        g.array("long", g.UINT32, list(range(100))),
        g.key("nan", g.FLOAT32, float("nan")),
    ]
    with open_model(g.write(tmp_path, g.gguf(keys, [g.tensor("w", (4, 2), 1)], bytes(16)))) as m:
        data = summary(m)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["metadata"]["long"] == {"length": 100, "first": [0, 1, 2, 3, 4, 5, 6, 7]}
    assert (data["weights"], data["bytes"], data["bits_per_weight"]) == (8, 16, 16.0)
    assert data["types"] == {"F16": {"tensors": 1, "weights": 8, "bytes": 16}}
    out = io.StringIO()
    Console(width=200, file=out).print(render(data))
    text = out.getvalue()
    assert r"[red]a\x1b[31m\nb" in text
    assert "100 items: 0, 1, 2, 3, 4, 5, 6, 7, ..." in text
    assert "2 × 4" in text


def foreign(names: list[str]) -> list[Any]:
    """Parameters: files that other programs wrote."""
    return [pytest.param(name, marks=pytest.mark.reference) for name in names]


@pytest.mark.parametrize(
    "name",
    with_references(MODELS + QUANTS) + foreign(["models/stories260K", *(f"vocab/{v}" for v in VOCABULARIES)]),
)
def test_file_opens(name: str) -> None:
    with open_model(model_path(name)) as m:
        assert m.get("general.architecture", str)
        for tensor, t in m.tensors.items():
            assert m.raw(tensor).nbytes == t.nbytes
        assert len(summary(m)["tensors"]) == len(m.tensors)


# The package's reader takes seconds for a vocabulary and does not know the BitNet types.
@pytest.mark.parametrize(
    "name",
    with_references(n for n in MODELS + QUANTS if not n.endswith("_bn")) + foreign(["models/stories260K"]),
)
def test_agrees_with_gguf_reader(name: str) -> None:
    import gguf

    path = model_path(name)
    reader, m = gguf.GGUFReader(path), open_model(path)
    assert [t.name for t in reader.tensors] == list(m.tensors)
    for t in reader.tensors:
        mine = m.tensors[t.name]
        assert tuple(map(int, reversed(t.shape))) == mine.shape
        assert (t.tensor_type.name, t.n_bytes, t.data_offset) == (mine.dtype.name, mine.nbytes, mine.offset)
    first = reader.tensors[0]
    assert (first.data.reshape(-1).view(np.uint8) == m.raw(first.name)).all()
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            ours = m.metadata[name]
            assert field.contents() == (list(ours) if isinstance(ours, tuple | np.ndarray) else ours), name
