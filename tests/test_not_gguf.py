"""Files that people take for a model, joined parts, and numbers that some writers give once for each layer."""

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf_files import FLOAT32, INT32, UINT32, array, gguf, key, small, tensor

from graphsched.cli import main as cli
from graphsched.errors import LoadError
from graphsched.gguf.loader import open_model


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "is a pointer of Git LFS, not the",
        ),
        (b"<!DOCTYPE html><html>", "is a web page, not a GGUF file; the download went wrong"),
        (b"\n  <html><body>404", "is a web page, not a GGUF file"),
        (b'<?xml version="1.0"?><Error>', "is a web page, not a GGUF file"),
        (b"tjgg\x03\0\0\0", "is a GGML file from before GGUF, its checkpoint has to be converted anew"),
        (b"lmgg\x03\0\0\0", "is a GGML file from before GGUF"),
        (
            struct.pack("<Q", 20) + b'{"a":{}}            ',
            "is a safetensors file, graphsched convert takes its folder",
        ),
        (
            b"PK\x03\x04\0\0",
            "is a zip archive, as torch.save writes; graphsched convert takes a checkpoint's folder",
        ),
        (b"abcd", "not a GGUF file, it starts with the bytes 61 62 63 64"),
    ],
)
def test_what_is_no_model_at_all(
    tmp_path: Path, data: bytes, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    assert cli.run(["inspect", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"graphsched: m.gguf: {sentence}")
    assert err.count("\n") == 1


def part(no: int) -> bytes:
    keys = [key("split.no", UINT32, no), key("split.count", UINT32, 2)]
    return gguf(keys, [tensor(f"t{no}", (4,), 0)], np.arange(4, dtype="<f4").tobytes())


def test_parts_that_were_joined(tmp_path: Path) -> None:
    for name, padding in {"m.gguf": 0, "m-00001-of-00002.gguf": 16}.items():
        (tmp_path / name).write_bytes(part(0) + bytes(padding) + part(1))
        with pytest.raises(
            LoadError, match="has more parts behind its end; they are for gguf merge, not to be joined"
        ):
            open_model(tmp_path / name)
    (tmp_path / "x.gguf").write_bytes(part(0))
    with pytest.raises(LoadError, match="is a part of 2 but is not named"):
        open_model(tmp_path / "x.gguf")
    for no in (0, 1):
        (tmp_path / f"p-{no + 1:05}-of-00002.gguf").write_bytes(part(no))
    with open_model(tmp_path / "p-00002-of-00002.gguf") as file:
        assert list(file.tensors) == ["t0", "t1"]


def test_equal_numbers_are_a_number(tmp_path: Path) -> None:
    keys = [array("equal", INT32, [4, 4, 4]), array("one", FLOAT32, [0.5]), array("several", INT32, [4, 2])]
    (tmp_path / "m.gguf").write_bytes(gguf([*keys, array("none", INT32, [])]))
    with open_model(tmp_path / "m.gguf") as file:
        assert file.get("equal", int) == 4
        assert type(file.get("equal", int)) is int
        assert (file.get("equal", float), file.get("one", float)) == (4.0, 0.5)
        assert file.get("equal", np.ndarray).tolist() == [4, 4, 4]
        for name, kind in {"several": "an integer", "none": "an integer", "one": "an integer"}.items():
            with pytest.raises(LoadError, match=f"key {name} is .*, {kind} is needed"):
                file.get(name, int)
        with pytest.raises(LoadError, match="key equal is an array of numbers, a string is needed"):
            file.get("equal", str)
    assert small()[:4] == b"GGUF"
