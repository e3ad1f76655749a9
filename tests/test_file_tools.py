"""`quantize`, `gguf` and `tokenize`: what is given is used or named, and files that are split, merged and edited."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphsched.cli import main as cli
from graphsched.errors import Error
from graphsched.gguf.copy import groups_of, parse_size
from graphsched.gguf.format import MetaValue
from graphsched.gguf.loader import open_model
from graphsched.gguf.write import aligned, encode_header
from graphsched.quantize.collected import Collected, write_importance
from graphsched.quantize.imatrix import read_importance
from graphsched.text.bpe import BYTE_CHARACTERS
from graphsched.types import dtypes
from graphsched.types.shapes import TensorType

INNER = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Three layers in F16, 256 columns, with a vocabulary of bytes."""
    keys: dict[str, MetaValue] = {"general.architecture": "llama", "llama.block_count": 3}
    keys |= {"llama.attention.head_count": 4, "llama.rope.freq_base": 1e4, "general.name": "tiny"}
    keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ("a b",)}
    keys |= {"tokenizer.ggml.tokens": (*BYTE_CHARACTERS, "ab", "<s>"), "tokenizer.ggml.bos_token_id": 257}
    keys |= {
        "tokenizer.ggml.token_type": np.array([1] * 257 + [3], np.int32),
        "tokenizer.ggml.add_bos_token": True,
    }
    types = {"token_embd.weight": TensorType(dtypes.F16, (258, 256))}
    for i in range(3):
        types |= {f"blk.{i}.{n}.weight": TensorType(dtypes.F16, (256, 256)) for n in INNER}
        types[f"blk.{i}.attn_norm.weight"] = TensorType(dtypes.F32, (256,))
    types["output.weight"] = TensorType(dtypes.F16, (258, 256))
    rng = np.random.default_rng(4)
    data = [t.dtype.quantize(rng.standard_normal(t.shape).astype(np.float32)) for t in types.values()]
    body = b"".join(raw.tobytes().ljust(aligned(raw.nbytes), b"\0") for raw in data)
    path = tmp_path / "m.gguf"
    path.write_bytes(encode_header(keys, types) + body)
    return path


def run(*args: object) -> int:
    return cli.run([*map(str, args)])


def types_of(path: Path) -> dict[str, str]:
    with open_model(path) as file:
        return {name: info.dtype.name for name, info in file.tensors.items()}


# --- quantize: what is given is used or named ---


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--custom-q", "ffn_dwon=q8_0"], "--custom-q ffn_dwon=q8_0"),
        (["--tensor-type", r"blk\.9\.=q8_0", "--tensor-type", "ffn_up=q8_0"], r"--custom-q blk\.9\.=q8_0"),
        (["--custom-q", "ffn=q8_0,ffn_up=q6_k"], "--custom-q ffn_up=q6_k"),
        (["--custom-q", "attn_norm=q8_0"], "--custom-q attn_norm=q8_0"),
        (["--i2s-arm"], "--i2s-arm"),
        (["--attn-qkv-type", "q8_0"], "--attn-qkv-type q8_0"),
        (["--leave-output-tensor", "--output-tensor-type", "q8_0"], "--output-tensor-type"),
    ],
)
def test_a_rule_without_effect_is_named(
    model: Path, tmp_path: Path, args: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quantize", *args, model, tmp_path / "o.gguf", "Q4_0") == 0
    assert capsys.readouterr().err.splitlines()[0] == f"without effect: {line}"


@pytest.mark.parametrize(
    ("args", "types"),
    [
        (
            ["--tensor-type", "FFN_DOWN=q8_0"],
            {"blk.1.ffn_down.weight": "Q8_0", "blk.1.ffn_up.weight": "Q4_0"},
        ),
        (
            ["--custom-q", r"Blk\.1\.Attn=Q6_K"],
            {"blk.1.attn_q.weight": "Q6_K", "blk.2.attn_q.weight": "Q4_0"},
        ),
        (["--attn-k-type", "q8_0"], {"blk.2.attn_k.weight": "Q8_0", "blk.2.attn_q.weight": "Q4_0"}),
        (["--ffn-down-type", "q5_0", "--custom-q", r"blk\.0.*=f16"], {"blk.0.ffn_down.weight": "F16"}),
        (["--ffn-gate-type", "q5_0"], {"blk.0.ffn_gate.weight": "Q5_0"}),
        (["--custom-q", "ffn=q4_0"], {"blk.0.ffn_gate.weight": "Q4_0"}),
    ],
)
def test_rules_that_have_an_effect_are_not_named(
    model: Path, tmp_path: Path, args: list[str], types: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quantize", *args, model, tmp_path / "o.gguf", "Q4_0") == 0
    assert "without effect" not in capsys.readouterr().err
    assert types.items() <= types_of(tmp_path / "o.gguf").items()


def test_rules_of_a_file(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "rules.txt"
    rules.write_bytes(b"\xef\xbb\xbfffn_up=q8_0\r\nffn_dwon=q6_k attn_k=q5_0\r\n")
    assert run("quantize", "--tensor-type-file", rules, model, tmp_path / "o.gguf", "Q4_0") == 0
    assert f"without effect: --tensor-type-file {rules}: ffn_dwon=q6_k" in capsys.readouterr().err
    types = types_of(tmp_path / "o.gguf")
    assert (types["blk.2.ffn_up.weight"], types["blk.2.attn_k.weight"]) == ("Q8_0", "Q5_0")
    assert run("quantize", "--tensor-type-file", tmp_path / "no", model, tmp_path / "p.gguf", "Q4_0") == 2


def test_layers_are_pruned(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.gguf"
    assert run("quantize", "--prune-layers", "1", model, out, "COPY") == 0
    with open_model(model) as old, open_model(out) as new:
        assert new.get("llama.block_count", int) == 2
        moved = {name.replace("blk.2.", "blk.1."): name for name in old.tensors if "blk.1." not in name}
        assert set(new.tensors) == set(moved)
        assert all(np.array_equal(new.raw(name), old.raw(of)) for name, of in moved.items())


def test_an_importance_matrix_follows_pruned_layers(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_importance(tmp_path / "all.gguf", collected(ALL), is_old=False)
    write_importance(tmp_path / "last.gguf", collected(ALL[14:]), is_old=False)
    assert run("quantize", "--prune-layers", "0,1", model, tmp_path / "last", "COPY") == 0
    with_importance = ("--imatrix", tmp_path / "all.gguf")
    assert run("quantize", *with_importance, "--prune-layers", "0,1", model, tmp_path / "a", "Q4_K_S") == 0
    assert run("quantize", *with_importance, tmp_path / "last", tmp_path / "b", "Q4_K_S") == 0
    assert run("quantize", "--prune-layers", "0,1", model, tmp_path / "c", "Q4_K_S") == 0
    files = [open_model(tmp_path / name) for name in "abc"]
    a, b, c = (file.raw("blk.0.ffn_up.weight").tobytes() for file in files)
    assert a not in (b, c)  # b has the values of the first layer, c none
    assert "entries are of no tensor" not in capsys.readouterr().err.splitlines()[0]


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ("3", "m.gguf has 3 layers, there is none of number 3"),
        ("0,1,2", "no layer of m.gguf would be left"),
        ("1;2", "--prune-layers is 1;2, numbers of layers are needed, as in 3,4,7"),
        ("", "--prune-layers is empty, numbers of layers are needed"),
        ("-1", "--prune-layers is -1, numbers of layers are needed"),
    ],
)
def test_layers_that_cannot_be_pruned(
    model: Path, tmp_path: Path, layers: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quantize", f"--prune-layers={layers}", model, tmp_path / "o.gguf", "COPY") == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "o.gguf").exists()


# --- importance matrices ---


def collected(names: list[str], columns: int = 256) -> Collected:
    rng = np.random.default_rng(2)
    sums = {n: rng.chisquare(1, (1, columns)).astype(np.float32) * 8 for n in names}
    return Collected(sums, {n: np.array([8]) for n in names}, ("a.txt", "b.txt"), 3, 512)


ALL = [f"blk.{i}.{n}.weight" for i in range(3) for n in INNER]


@pytest.mark.parametrize("is_old", [False, True])
def test_both_forms_are_written_and_read(tmp_path: Path, is_old: bool) -> None:
    """Also experts, one of which saw nothing and counts as ones."""
    given = collected(ALL[:2])
    experts = np.arange(8, dtype=np.float32).reshape(2, 4)
    sums = {**given.sums, "e": experts}
    counts = {**given.counts, "e": np.array([2, 0])}
    write_importance(tmp_path / "i", Collected(sums, counts, ("a.txt", "b.txt"), 3, 512), is_old=is_old)
    found = read_importance(tmp_path / "i")
    assert (found.chunks, found.datasets) == (3, "a.txt, b.txt")
    assert sorted(found.values) == sorted(sums)
    np.testing.assert_allclose(found.values[ALL[0]], given.sums[ALL[0]][0] / 8, rtol=1e-6)
    np.testing.assert_allclose(found.values["e"], [0, 0.5, 1, 1.5, 1, 1, 1, 1], rtol=1e-6)
    assert not [p for p in tmp_path.iterdir() if p.name != "i"]


def test_an_importance_matrix_of_another_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_importance(tmp_path / "i", collected([f"model.{n}" for n in ALL]))
    assert run("quantize", "--imatrix", tmp_path / "i", model, tmp_path / "o.gguf", "Q4_K_M") == 2
    assert capsys.readouterr().err == (
        "graphsched: i: has values for none of the 23 tensors that are quantised; "
        "it has model.blk.0.attn_k.weight, the model token_embd.weight\n"
    )
    assert not (tmp_path / "o.gguf").exists()


@pytest.mark.parametrize(
    ("names", "args", "lines"),
    [
        (ALL, [], []),
        ([*ALL, "output.weight"], [], []),
        (ALL[:7], [], ["i: has no values for 14 of 23 tensors, blk.1.attn_q.weight, blk.1.attn_k.weight, "]),
        ([*ALL, "blk.7.x"], [], ["i: 1 entries are of no tensor of the model, blk.7.x"]),
        (ALL, ["--exclude-weights", "ffn_"], ["i: has no values for 9 of 23 tensors, "]),
        (
            ALL,
            ["--include-weights", "attn_", "--include-weights", "x"],
            ["i: has no", "without effect: --include-weights x"],
        ),
        (ALL, ["--exclude-weights", "fnn"], ["without effect: --exclude-weights fnn"]),
    ],
)
def test_gaps_of_an_importance_matrix(
    model: Path,
    tmp_path: Path,
    names: list[str],
    args: list[str],
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_importance(tmp_path / "i", collected(names))
    assert run("quantize", "--imatrix", tmp_path / "i", *args, "--dry-run", model, "o", "Q4_0") == 0
    found = capsys.readouterr().err.splitlines()[: -2 or None]
    assert len(found) == len(lines)
    assert all(a.startswith(b) for a, b in zip(found, lines, strict=True))


def test_an_importance_matrix_that_nothing_needs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_importance(tmp_path / "i", collected(ALL))
    assert run("quantize", "--imatrix", tmp_path / "i", model, tmp_path / "o.gguf", "BF16") == 0
    assert capsys.readouterr().err.startswith(f"without effect: --imatrix {tmp_path / 'i'}\n")
    assert run("quantize", "--include-weights", "x", model, tmp_path / "o.gguf", "Q4_0") == 2
    assert "are about an --imatrix, there is none" in capsys.readouterr().err


# --- quantize: values, arguments, metadata, parts ---


@pytest.mark.parametrize(("kind", "value"), [("F16", 7e4), ("Q4_0", 7e5), ("Q8_0", 1e8), ("Q4_1", 3e6)])
def test_weights_that_a_type_cannot_hold(
    model: Path, tmp_path: Path, kind: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    types = {"token_embd.weight": TensorType(dtypes.F32, (4, 256))}
    w = np.ones((4, 256), np.float32)
    w[2, 3] = value
    source, out = tmp_path / "s.gguf", tmp_path / "o.gguf"
    source.write_bytes(encode_header({"general.architecture": "llama"}, types) + w.tobytes())
    assert run("quantize", "--token-embedding-type", kind, source, out, kind) == 2
    sentence = f"has a weight of {value:g}, which {kind} cannot hold; BF16 can"
    assert capsys.readouterr().err == f"graphsched: s.gguf: tensor token_embd.weight {sentence}\n"
    assert not out.exists()
    assert run("quantize", source, out, "BF16") == 0


def test_the_output_file_may_be_left_out(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quantize", model, "q4_0") == 0
    assert run("quantize", model, "q8_0", 1) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"m.gguf", "ggml-model-Q4_0.gguf", "ggml-model-Q8_0.gguf"}
    monkeypatch.chdir(tmp_path)
    assert run("quantize", model, "Q4_0", "Q8_0") == 0  # a file of that name
    assert set(types_of(Path("Q4_0")).values()) == {"Q8_0", "F32"}
    capsys.readouterr()
    assert run("quantize", model) == 2
    assert capsys.readouterr().err == "graphsched: missing argument 'OUT'\n"
    assert run("quantize", model, "o", "Q4_0", "1", "x") == 2


def test_metadata_that_is_overridden(model: Path, tmp_path: Path) -> None:
    rules = (
        "--override-kv",
        "general.name=str:new",
        "--override-kv",
        "tokenizer.ggml.add_eos_token=bool:false",
    )
    assert run("quantize", *rules, model, tmp_path / "o.gguf", "COPY") == 0
    with open_model(tmp_path / "o.gguf") as file:
        assert file.metadata["general.name"] == "new"
        assert file.metadata["tokenizer.ggml.add_eos_token"] is False
        assert file.metadata["llama.block_count"] == 3


def test_parts_stay_parts(model: Path, tmp_path: Path) -> None:
    assert run("gguf", "split", model, tmp_path / "p", "--split-max-tensors", 10) == 0
    first = tmp_path / "p-00002-of-00003.gguf"
    assert run("quantize", "--keep-split", first, tmp_path / "q.gguf", "Q4_0", 1) == 0
    assert run("quantize", first, tmp_path / "whole.gguf", "Q4_0", 1) == 0
    with (
        open_model(tmp_path / "q-00001-of-00003.gguf") as parts,
        open_model(tmp_path / "whole.gguf") as whole,
    ):
        assert len(parts.parts) == 3
        assert [t.part for t in parts.tensors.values()] == [i // 10 for i in range(26)]
        assert parts.metadata["general.file_type"] == whole.metadata["general.file_type"]
        for name in whole.tensors:
            assert (parts.raw(name) == whole.raw(name)).all()
    assert run("quantize", "--keep-split", first, tmp_path / "p", "Q4_0") == 2


# --- gguf split, merge, set ---


@pytest.mark.parametrize(
    ("args", "sizes"),
    [
        (["--split-max-tensors", "9"], [9, 9, 8]),
        (["--split-max-size", "1M"], [7, 8, 8, 3]),
        (["--split-max-size", "1G"], [26]),
        ([], [26]),
        (["--no-tensor-first-split", "--split-max-tensors", "20"], [0, 20, 6]),
    ],
)
def test_there_and_back(
    model: Path, tmp_path: Path, args: list[str], sizes: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("gguf", "split", model, tmp_path / "p.gguf", "--dry-run", *args) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(sizes)
    assert not list(tmp_path.glob("p*"))
    assert run("gguf", "split", model, tmp_path / "p.gguf", *args) == 0
    parts = sorted(tmp_path.glob("p*"))
    with open_model(parts[-1]) as file:
        assert [sum(t.part == i for t in file.tensors.values()) for i in range(len(parts))] == sizes
        if len(sizes) > 1:
            assert file.encoded("split.count") == b"\x02\0\0\0" + len(sizes).to_bytes(2, "little")
            assert file.encoded("split.tensors.count") == b"\x05\0\0\0" + (26).to_bytes(4, "little")
    assert run("gguf", "merge", parts[0], tmp_path / "back.gguf") == 0
    assert (tmp_path / "back.gguf").read_bytes() == model.read_bytes()


def test_what_cannot_be_split_or_merged(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for args, sentence in {
        ("split", model, tmp_path / "m"): "m.gguf: is the file that is read, which is not overwritten",
        ("merge", model, model): "m.gguf: is the file that is read, which is not overwritten",
        (
            "split",
            model,
            tmp_path / "p",
            "--split-max-size",
            "5",
        ): "--split-max-size 5: a number with M or G behind it",
        (
            "split",
            model,
            tmp_path / "p",
            "--split-max-size",
            "0G",
        ): "--split-max-size 0G: a number with M or G",
        (
            "split",
            model,
            tmp_path / "p",
            "--split-max-size",
            "1G",
            "--split-max-tensors",
            2,
        ): "there is one limit",
        ("merge", tmp_path / "no", tmp_path / "p"): "no: no such file or directory",
        ("spilt", model): "no such command gguf spilt; did you mean gguf split?",
        (
            "set",
            model,
            tmp_path / "p",
        ): "there is nothing to change, KEY=TYPE:VALUE or --remove KEY says what",
        ("set", model, tmp_path / "p", "a=b"): "gguf set a=b: KEY=TYPE:VALUE is needed",
        ("set", model, model, "general.name=str:x"): "m.gguf: exists already, --force replaces it",
        ("set", model, tmp_path / "p", "--remove", "x.y"): "--remove x.y: m.gguf has no such key",
    }.items():
        assert run("gguf", *args) == 2
        assert sentence in (err := capsys.readouterr().err)
        assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["m.gguf"]
    assert (parse_size("x", "3m"), groups_of([])) == (3_000_000, [[]])
    with open_model(model) as file, pytest.raises(Error, match="parts are too many"):
        groups_of(list(file.tensors.values()) * 5000, most=1)


def test_metadata_is_edited(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = tmp_path / "t.jinja"
    template.write_bytes(b"\xef\xbb\xbf{{ messages }}\r\n")
    args = ["llama.block_count=int:2", "llama.rope.freq_base=int:500000", "new.key=bool:true", "--remove"]
    args += ["general.name", "--chat-template-file", str(template)]
    out = tmp_path / "o.gguf"
    assert run("gguf", "set", model, out, *args, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["general.name: removed", "llama.block_count: 3 -> 2"]
    assert lines[2] == "llama.rope.freq_base: 10000.0 -> 500000"
    assert lines[3:] == ["new.key: none -> True", "tokenizer.chat_template: none -> {{ messages }}"]
    assert not out.exists()
    assert run("gguf", "set", model, out, *args) == 0
    with open_model(model) as before, open_model(out) as after:
        assert "general.name" not in after.metadata
        assert after.metadata["tokenizer.chat_template"] == "{{ messages }}"
        assert (after.metadata["llama.rope.freq_base"], after.metadata["new.key"]) == (500000.0, True)
        assert after.encoded("llama.block_count") == b"\x04\0\0\0\x02\0\0\0"
        assert after.encoded("tokenizer.ggml.tokens") == before.encoded("tokenizer.ggml.tokens")
        assert all((after.raw(n) == before.raw(n)).all() for n in before.tensors)


def test_a_file_is_edited_in_its_place(model: Path) -> None:
    """A number that its type cannot hold gets another type; what is no list any more becomes a number."""
    args = ("llama.block_count=int:-1", "tokenizer.ggml.merges=int:300", "tokenizer.ggml.add_bos_token=int:0")
    assert run("gguf", "set", "--force", model, model, *args) == 0
    with open_model(model) as file:
        assert file.encoded("llama.block_count")[:4] == (11).to_bytes(4, "little")
        assert file.metadata["tokenizer.ggml.merges"] == 300
        assert file.metadata["tokenizer.ggml.add_bos_token"] == 0
        assert np.isfinite(file.array("output.weight")).all()


# --- tokenize ---


@pytest.mark.parametrize(
    ("args", "out"),
    [
        (["-p", "abé"], '   257 -> "<s>"\n   256 -> "ab"\n   195 -> "\ufffd"\n   169 -> "\ufffd"\n'),
        (["-p", "ab", "--ids"], "[257, 256]\n"),
        (["-p", "ab", "--ids", "--no-bos", "--show-count"], "[256]\nTotal number of tokens: 1\n"),
        (["-p", "<s>", "--ids", "--no-bos"], "[257]\n"),
        (["-p", "<s>", "--ids", "--no-bos", "--no-parse-special"], "[60, 115, 62]\n"),
        (["-p", "ab", "--ids", "--override-kv", "tokenizer.ggml.add_bos_token=bool:false"], "[256]\n"),
    ],
)
def test_tokens_of_a_text(model: Path, args: list[str], out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tokenize", "-m", model, *args) == 0
    assert capsys.readouterr().out == out


def test_tokens_as_json_and_from_a_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbf<s>ab\r\n")
    assert run("tokenize", "-m", model, "-f", tmp_path / "t", "--json") == 0
    out, err = capsys.readouterr()
    rows = [{"id": 257, "text": "<s>"}, {"id": 257, "text": "<s>"}, {"id": 256, "text": "ab"}]
    assert json.loads(out) == rows
    assert (
        err == "the text begins with its own BOS, and so there are two; --no-bos leaves the other one out\n"
    )
    rule = ("--override-kv", "tokenizer.ggml.nothing=int:1")
    assert run("tokenize", "-m", model, "-p", "x", *rule) == 0
    assert capsys.readouterr().err == "without effect: --override-kv tokenizer.ggml.nothing=int:1\n"
    assert run("tokenize", "-m", model) == 2
    assert run("tokenize", "-m", model, "-p", "x", "--stdin") == 2
