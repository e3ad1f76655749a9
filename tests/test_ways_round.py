"""Ways round bad metadata: overrides, pre-tokenizers under other names, vocabularies that do not fit, Windows text."""

import codecs
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import small
from shared import shared

from graphsched.cli.texts import read_text
from graphsched.errors import Error
from graphsched.gguf.given import Given, named, unused
from graphsched.gguf.loader import open_model
from graphsched.gguf.override import Overridden, parse_overrides
from graphsched.text.bpe import BYTE_CHARACTERS
from graphsched.text.plain import decoded
from graphsched.text.pretokenizers import KNOWN
from graphsched.text.tokenizer import check_vocabulary, from_metadata
from graphsched.text.vocab import Fields

BPE: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen2",
    "tokenizer.ggml.tokens": (*BYTE_CHARACTERS, "<|end|>"),
    "tokenizer.ggml.token_type": np.array([1] * 256 + [3], np.int32),
    "tokenizer.ggml.merges": (),
    "tokenizer.ggml.eos_token_id": 256,
}


# --- overrides ---


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (("a.b=int:5",), {"a.b": 5}),
        (("a=int:-5", "b=float:1e-5"), {"a": -5, "b": 1e-5}),
        (("a=bool:true,b=bool:false",), {"a": True, "b": False}),
        (("a=str:x,y=z",), {"a": "x,y=z"}),
        (("a=str:x=int:,b=int:1",), {"a": "x=int:", "b": 1}),
        ((r"a=str:x\,b=int:1",), {"a": "x,b=int:1"}),
        (("a=str:",), {"a": ""}),
        (("a=int:18446744073709551615",), {"a": 2**64 - 1}),
    ],
)
def test_rules(rules: tuple[str, ...], expected: dict[str, Any]) -> None:
    found = {o.key: o.value for o in parse_overrides(rules)}
    assert found == expected
    assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ("", "--override-kv with nothing: KEY=TYPE:VALUE is needed, TYPE being int, float, bool, str"),
        ("a", "--override-kv a: KEY=TYPE:VALUE is needed"),
        ("a=5", "--override-kv a=5: KEY=TYPE:VALUE is needed"),
        (
            "a=u32:5",
            "--override-kv a=u32:5: KEY=TYPE:VALUE is needed, TYPE being int, float, bool, str (there is no",
        ),
        ("a=int:x", "--override-kv a=int:x: x is not an integer of 64 bits"),
        ("a=int:", '--override-kv a=int:: "" is not an integer of 64 bits'),
        ("a=int:99999999999999999999", "is not an integer of 64 bits"),
        ("a=float:nan", "--override-kv a=float:nan: nan is not a finite number"),
        ("a=bool:1", "--override-kv a=bool:1: 1 is not true or false"),
        ("a=int:1,a=int:2", "--override-kv a=int:1: key a is given twice"),
    ],
)
def test_a_rule_that_cannot_be_read(rule: str, sentence: str) -> None:
    with pytest.raises(Error) as e:
        parse_overrides((rule,))
    assert str(e.value).startswith("--override-kv ")
    assert sentence in str(e.value)


def test_rules_are_counted() -> None:
    found = Overridden({"a": 1, "b": 2}, parse_overrides(("a=int:7", "c=str:x", "d=int:0")))
    assert (found["a"], found["b"], found["a"], found.get("c"), found.get("e", 3)) == (7, 2, 7, "x", 3)
    assert found.given() == (
        Given("--override-kv a=int:7", 2),
        Given("--override-kv c=str:x", 1),
        Given("--override-kv d=int:0", 0),
    )
    assert unused(found.given()) == "without effect: --override-kv d=int:0"
    assert unused(found.given()[:2]) is None
    row = found.given()[0].as_json()
    assert (row["given"], row["hits"]) == ("--override-kv a=int:7", 2)
    assert named(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_a_file_whose_metadata_is_overridden(tmp_path: Path) -> None:
    """Also a key that has the wrong type in the file, and one that it lacks."""
    path = tmp_path / "s.gguf"
    path.write_bytes(small())
    rules = parse_overrides(("tokenizer.ggml.scores=int:4", "llama.block_count=int:2", "new=str:x"))
    with open_model(path, header_only=True, overrides=rules) as file:
        assert file.get("llama.block_count", int) == 2
        assert file.get("tokenizer.ggml.scores", int) == 4
        assert file.metadata["general.architecture"] == "llama"
        assert [g.hits for g in file.overrides()] == [1, 1, 0]
        assert file.encoded("llama.block_count")[4:] == (2).to_bytes(4, "little")
        assert "new" in set(file.metadata)
    with open_model(path, header_only=True) as file:
        assert file.overrides() == ()
        assert file.metadata["llama.block_count"] == 1


# --- vocabularies ---


def test_no_prompt_is_closed() -> None:
    for more in ({}, {"tokenizer.ggml.add_eos_token": True}):
        t = from_metadata(BPE | more)
        assert t.encode("ab") == t.encode("ab", add_special=False) == [BYTE_CHARACTERS.index(c) for c in "ab"]
    with open_model(shared("models/stories260K.gguf")) as file:
        plain = from_metadata(file.metadata).encode("Once upon a time")
        closed = from_metadata({**file.metadata, "tokenizer.ggml.add_eos_token": True}).encode(
            "Once upon a time"
        )
    assert plain == closed


def test_a_text_that_brings_its_own_beginning() -> None:
    t = from_metadata(BPE | {"tokenizer.ggml.bos_token_id": 256, "tokenizer.ggml.add_bos_token": True})
    assert t.begins_twice(t.encode("<|end|>a", parse_special=True))
    assert not t.begins_twice(t.encode("<|end|>a"))
    assert not t.begins_twice(t.encode("a", parse_special=True))
    assert not from_metadata(BPE).begins_twice([256, 256])


def test_a_vocabulary_that_does_not_fit_the_matrix() -> None:
    t = from_metadata(BPE)
    check_vocabulary(t, 257, "m.gguf")
    for rows in (256, 258, 1):
        sentence = f"m.gguf: key tokenizer.ggml.tokens has 257 tokens, token_embd.weight has {rows} rows"
        with pytest.raises(Error) as e:
            check_vocabulary(t, rows, "m.gguf")
        assert str(e.value) == sentence


def test_a_file_that_does_not_say_how_text_is_cut() -> None:
    old = {k: v for k, v in BPE.items() if not k.endswith(".pre")}
    (note,) = from_metadata(old, "m.gguf").notes
    assert note == (
        "m.gguf: key tokenizer.ggml.pre is missing, so text may be cut otherwise than the model was trained on"
    )
    assert from_metadata(BPE).notes == ()
    with pytest.raises(Error, match=r"--override-kv tokenizer\.ggml\.pre=str:NAME takes another one"):
        from_metadata(BPE | {"tokenizer.ggml.pre": "gemma9"})


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("kormo", "qwen2"),
        ("f2llmv2", "qwen2"),
        ("jina-v5-nano", "llama-bpe"),
        ("hy_v4", "deepseek-v3"),
        *((name, "gpt-2") for name in ("granite-docling", "modern-bert", "roberta-bpe", "jina-v1-en")),
        *((f"jina-{name}", "gpt-2") for name in ("es", "de", "v2-es", "v2-de", "v2-code")),
    ],
)
def test_known_rules_under_other_names(name: str, like: str) -> None:
    assert KNOWN[name] is KNOWN[like]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("ufakzeka", "Ali'nin 12 evi", ["Ali", "'nin", " ", "1", "2", " evi"]),
        ("ufakzeka", "it's don't", ["it", "'s", " don", "'t"]),
        ("minicpm5", "it's 12345", ["it", "'s", " ", "123", "45"]),
        ("laguna", "a\n\nb 12", ["a", "\n\n", "b", " ", "1", "2"]),
        ("exaone-moe", "le mot 12!\n\n", ["le mot", " ", "1", "2", "!\n", "\n"]),
        ("viking", "moi, maailma 123", ["moi", ",", " maailma", " ", "1", "2", "3"]),
        ("poro-chat", "moi, maailma 123", ["moi", ",", " maailma", " 123"]),
        ("bloom", "a(b) c|d", ["a", "(", "b", ")", " c", "|", "d"]),
        ("youtu", "中文かな abc12", ["中文かな", " abc", "1", "2"]),
        ("youtu", "한국어HelloWorld", ["한국어", "Hello", "World"]),
        ("jais-2", "a" + " " * 7 + "b", ["a", "    ", "  ", " b"]),
        ("spark2_5", "ab 1234\n\nc!", ["ab", " ", *"1234", "\n", "\n", "c", "!"]),
        ("granite-embed-multi-97m", "हिन्दी it's", ["हिन्दी", " it's"]),
    ],
)
def test_words_of_further_rules(name: str, text: str, words: list[str]) -> None:
    assert KNOWN[name].split(text) == words
    assert "".join(words) == text


# --- text ---


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"Once upon a time\r\n", "Once upon a time"),
        (b"\xef\xbb\xbfOnce", "Once"),
        (b"\xef\xbb\xbfa\r\nb\r\n\r\n", "a\nb\n"),
        (codecs.BOM_UTF16_LE + "é\r\nx\n".encode("utf-16-le"), "é\nx"),
        (codecs.BOM_UTF16_BE + "日本".encode("utf-16-be"), "日本"),
        (codecs.BOM_UTF32_LE + "a\r\n".encode("utf-32-le"), "a"),
        (b"a\rb\n", "a\rb"),
        (b"a\n\n", "a\n"),
        (b"", ""),
    ],
)
def test_text_of_other_systems(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "p.txt").write_bytes(data)
    assert read_text(str(tmp_path / "p.txt")) == text
    assert decoded(data).removesuffix("\n") == text


@pytest.mark.parametrize(
    ("id", "is_named"),
    [(99999, True), (-5, True), (512, True), (511, False), (-1, False), (2**32 - 1, False)],
)
def test_a_special_token_outside_the_vocabulary_is_named(id: int, is_named: bool) -> None:
    metadata = {"tokenizer.ggml.eos_token_id": id}
    notes = Fields(metadata, "m.gguf").absent(("bos", "eos"), 512)
    assert [note.startswith("m.gguf: key tokenizer.ggml.eos_token_id is") for note in notes] == [
        True
    ] * is_named
