"""Tokenizers: ids of real vocabularies, merging against the obvious algorithm, special tokens, streaming."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import shared

from graphsched.errors import Error, LoadError
from graphsched.gguf.loader import open_model
from graphsched.text.merge import merge
from graphsched.text.pretokenizers import KNOWN
from graphsched.text.tokenizer import Tokenizer, from_metadata

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
BYTES = [f"<0x{b:02X}>" for b in range(256)]
# bytes as byte-level BPE writes them: printable Latin-1 as itself, the others from U+0100 on
VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
ALPHABET = [chr(b) for b in VISIBLE] + [chr(0x100 + i) for i in range(256 - len(VISIBLE))]


def spm(
    pieces: Mapping[str, float], special: Mapping[str, int] | None = None, name: str = "", **keys: Any
) -> Tokenizer:
    """<unk> <s> </s>, 256 bytes, then `pieces` with their scores and `special` with their types."""
    special = special or {}
    n_free = 3 + len(BYTES)
    metadata = {
        "general.name": name,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ("<unk>", "<s>", "</s>", *BYTES, *pieces, *special),
        "tokenizer.ggml.scores": np.array([*[0.0] * n_free, *pieces.values(), *[0.0] * len(special)]),
        "tokenizer.ggml.token_type": [
            *(UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256),
            *[NORMAL] * len(pieces),
            *special.values(),
        ],
    }
    return from_metadata(metadata | {f"tokenizer.ggml.{k}": v for k, v in keys.items()})


def bpe_metadata(merges: list[str], special: Mapping[str, int] | None = None, **keys: Any) -> dict[str, Any]:
    special = special or {}
    tokens = [*ALPHABET, *(m.replace(" ", "") for m in merges), *special]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [NORMAL] * (len(tokens) - len(special)) + list(special.values()),
        "tokenizer.ggml.merges": merges,
    } | {f"tokenizer.ggml.{k}": v for k, v in keys.items()}


def bpe(merges: list[str], special: Mapping[str, int] | None = None, **keys: Any) -> Tokenizer:
    return from_metadata(bpe_metadata(merges, special, **keys))


def texts(t: Tokenizer, ids: list[int]) -> list[str]:
    return [t.piece(i, special=True).decode("utf-8", "replace") for i in ids]


@pytest.mark.reference
@pytest.mark.parametrize("name", ["llama-spm", "gpt-2", "deepseek-llm", "qwen2"])
def test_ids_of_real_vocabularies(name: str) -> None:
    with open_model(shared(f"vocab/{name}.gguf")) as model:
        t = from_metadata(model.metadata, name)
    inputs = shared(f"vocab/{name}.inp").read_text().split("\n__ggml_vocab_test__\n")
    expected = shared(f"vocab/{name}.out").read_text().split("\n")
    assert len(inputs) == len(expected)
    for text, line in zip(inputs, expected, strict=True):
        ids = [int(i) for i in line.split()]
        assert t.encode(text, add_special=False) == ids
        assert t.decode(ids) == text
    story = shared("text/stories.txt").read_text()
    assert t.decode(t.encode(story)) == story


@pytest.mark.reference
def test_story_of_the_smallest_model_goes_there_and_back() -> None:
    path = shared("models/stories260K.gguf")
    with open_model(path) as model:
        t = from_metadata(model.metadata, path.name)
    assert texts(t, t.encode("Once upon a time")) == ["<s>", " Once", " upon", " a", " time"]


@given(
    st.text("abc", max_size=20), st.dictionaries(st.text("abc", min_size=2, max_size=5), st.integers(-3, 3))
)
def test_merge_is_the_obvious_algorithm(text: str, scores: dict[str, int]) -> None:
    symbols = list(text)
    while pairs := [(scores[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in scores]:
        i = min(pairs)[1]
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    assert merge(list(text), lambda a, b: scores.get(a + b)) == symbols


class TestSpm:
    pieces: ClassVar = dict.fromkeys("▁abc", -9.0) | {"▁a": -2.0, "ab": -4.0, "bc": -1.0, "aa": -3.0}

    def test_best_score_merges_first_and_the_leftmost_among_equals(self) -> None:
        t = spm(self.pieces)
        assert texts(t, t.encode("abc", add_special=False)) == [" a", "bc"]
        assert texts(t, t.encode("baaa", add_special=False)) == [" ", "b", "aa", "a"]

    def test_a_character_without_a_piece_becomes_its_bytes(self) -> None:
        t = spm(self.pieces)
        ids = t.encode("é", add_special=False)
        assert [t.piece(i) for i in ids] == [b" ", b"\xc3", b"\xa9"]
        assert t.decode(ids) == "é"

    def test_ordinary_text_never_becomes_a_control_or_byte_token(self) -> None:
        pieces = dict.fromkeys("▁<s>0xA", -9.0) | dict.fromkeys(("<s", "<0", "<0x", "<0xA", "<0xAA"), -1.0)
        t = spm(pieces)
        assert not {1, BYTES.index("<0xAA>") + 3} & set(t.encode("<s> <0xAA>", add_special=False))
        assert t.decode(t.encode("<s> <0xAA>")) == "<s> <0xAA>"

    def test_control_tokens_need_parse_special_and_user_defined_ones_do_not(self) -> None:
        t = spm(self.pieces, {"<|im_end|>": CONTROL, "<b>": USER})
        assert texts(t, t.encode("a<b>a", add_special=False)) == [" a", "<b>", " a"]
        assert t.eot not in t.encode("<|im_end|>")
        assert t.encode("<|im_end|>", parse_special=True) == [t.bos, t.eot]
        assert t.decode([1, 3 + 256 + 4, t.n_vocab - 2]) == "a"

    def test_longer_special_tokens_win(self) -> None:
        t = spm(self.pieces, {"<b": USER, "<b>": USER})
        assert texts(t, t.encode("<b><b", add_special=False)) == ["<b>", "<b"]

    def test_bos_and_the_space_prefix_follow_the_flags_and_no_prompt_is_closed(self) -> None:
        assert spm(self.pieces).encode("") == [1]
        t = spm(self.pieces, add_bos_token=False, add_eos_token=True, add_space_prefix=False)
        assert texts(t, t.encode("a")) == ["a"]
        assert t.encode("a", add_special=False) == t.encode("a")
        assert t.decode(t.encode(" a")) == " a"

    def test_extra_white_space_goes_only_if_the_file_says_so(self) -> None:
        t = spm(self.pieces, remove_extra_whitespaces=True)
        assert texts(t, t.encode("  a   b ", add_special=False)) == [" a", " ", "b"]
        assert t.encode("  ", add_special=False) == []

    def test_a_piece_across_words_is_found(self) -> None:
        t = spm(self.pieces | {"a▁": -0.5, "a▁b": -0.1})
        assert texts(t, t.encode("a b", add_special=False)) == [" ", "a b"]

    def test_phi3_special_tokens_swallow_the_space_behind_them(self) -> None:
        for name, expected in (("Phi-3 mini", ["<|end|>", " a"]), ("other", ["<|end|>", " ", "\n", "a"])):
            t = spm(self.pieces, {"<|end|>": CONTROL}, name)
            assert texts(t, t.encode("<|end|>\na", parse_special=True))[1:] == expected

    @given(st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
    def test_there_and_back(self, text: str) -> None:
        t = SPM
        assert t.decode(t.encode(text)) == text

    def test_continuing_keeps_the_space_of_the_first_word(self) -> None:
        t = spm(self.pieces)
        ids = t.encode("a", add_special=False)
        assert (t.decode(ids), t.decode(ids, continuing=True)) == ("a", " a")
        assert (t.stream().push(ids[0]), t.stream(continuing=True).push(ids[0])) == ("a", " a")


class TestBpe:
    merges: ClassVar = ["Ġ a", "a b", "ab c", "b c"]

    def test_the_first_listed_pair_merges_first(self) -> None:
        t = bpe(self.merges)
        assert texts(t, t.encode("abc abc")) == ["abc", " a", "bc"]

    def test_whole_words_first_where_the_model_ignores_merges(self) -> None:
        t = bpe(self.merges, {"abcd": NORMAL})
        assert texts(t, t.encode("abcd")) == ["abc", "d"]
        t = bpe(self.merges, {"abcd": NORMAL}, pre="llama-bpe")
        assert texts(t, t.encode("abcd")) == ["abcd"]

    def test_without_a_pre_tokenizer_the_default_is_taken(self) -> None:
        metadata = bpe_metadata(self.merges)
        del metadata["tokenizer.ggml.pre"]
        t = from_metadata(metadata)
        assert texts(t, t.encode("ab1234!")) == ["ab", *"1234!"]

    @given(st.text())
    def test_there_and_back(self, text: str) -> None:
        assert BPE.decode(BPE.encode(text)) == text

    def test_bytes_of_a_command_line_that_are_not_text_go_there_and_back(self) -> None:
        assert b"".join(map(BPE.piece, BPE.encode("a\udcff"))) == b"a\xff"
        assert BPE.decode(BPE.encode("\ud800")) == "\ufffd"

    def test_one_endless_word(self) -> None:
        text = "ab" * 20_000
        assert BPE.decode(BPE.encode(text)) == text


@given(st.lists(st.integers(0, 255 + 4)), st.booleans())
def test_streaming_gives_what_decode_gives(ids: list[int], continuing: bool) -> None:
    for t in (SPM, BPE):
        stream = t.stream(continuing=continuing)
        parts = [stream.push(i) for i in ids]
        assert "".join(parts) + stream.flush() == t.decode(ids, continuing=continuing)


def test_streaming_never_gives_half_a_character() -> None:
    ids = [SPM.encode("€", add_special=False)[-3 + i] for i in range(3)]
    stream = SPM.stream()
    assert [stream.push(i) for i in ids] == ["", "", "€"]
    assert [stream.push(i) for i in (ids[0], *SPM.encode("a", add_special=False))] == ["", "\ufffd a"]
    assert (stream.push(ids[0]), stream.flush()) == ("", "\ufffd")


def test_ends_of_generation() -> None:
    t = bpe([], {"<|im_end|>": USER, "<|endoftext|>": CONTROL, "<|file_sep|>": USER, "</s>": NORMAL})
    n = t.n_vocab - 4
    assert (t.eog, t.eot, t.eos, t.bos) == (frozenset({n, n + 1, n + 2}), n, None, None)
    assert t.decode([n, n + 3]) == "</s>"
    t = bpe([], {"<|eom_id|>": CONTROL}, eos_token_id=3, eot_token_id=np.uint32(4))
    assert (t.eog, t.eos, t.eot) == (frozenset({3, 4, t.n_vocab - 1}), 3, 4)


def test_gpt_oss_messages_end_without_ending_the_answer() -> None:
    special = ["<|return|>", "<|call|>", "<|end|>", "<|channel|>", "<|endoftext|>"]
    t = bpe([], dict.fromkeys(special, CONTROL))
    ids = dict(zip(special, range(t.n_vocab - 5, t.n_vocab), strict=True))
    assert t.eog == {ids["<|return|>"], ids["<|call|>"], ids["<|endoftext|>"]}
    assert t.decode([ids["<|channel|>"], 0, ids["<|end|>"], ids["<|return|>"]]) == "<|channel|>!<|end|>"


# by huggingface/tokenizers 0.23 with these tokens and merges, spaces as ▁ and bytes for what is no token
LISTED_TOKENS = [
    *("<pad>", "<eos>", "<bos>", "<unk>"),
    *(f"<0x{i:02X}>" for i in range(256)),
    *"▁abehlo\n",
    *("he", "ll", "hell", "hello", "▁hello", "▁a", "\n\n", "▁▁"),
]
LISTED = from_metadata(
    {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": LISTED_TOKENS,
        "tokenizer.ggml.token_type": [*[CONTROL] * 3, UNKNOWN, *[BYTE] * 256, *[NORMAL] * 16],
        "tokenizer.ggml.merges": ["h e", "l l", "he ll", "hell o", "▁ hello", "▁ a", "\n \n", "▁ ▁"],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.add_bos_token": True,
    }
)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello hello", [271, 272]),
        ("a  hello\n\n\nhel é", [261, 260, 272, 274, 267, 268, 265, 260, 199, 173]),
        ("  ab", [260, 273, 262]),
        ("\n hello", [267, 272]),
        ("x", [124]),
    ],
)
def test_gemma4_merges_listed_pairs_of_characters(text: str, ids: list[int]) -> None:
    assert LISTED.encode(text) == [2, *ids]
    assert LISTED.decode(ids) == text


@given(st.text())
def test_gemma4_there_and_back(text: str) -> None:
    assert LISTED.decode(LISTED.encode(text)) == text.replace("▁", " ")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("afmoe", "a| |1|234|567| |12|x| ab"),
        ("tiny_aya", "1|234|567"),
        ("glm5", "don|'t|123|4"),
    ],
)
def test_numbers_are_cut_from_their_end(name: str, words: str) -> None:
    assert KNOWN[name].split(words.replace("|", "")) == words.split("|")


# by huggingface/tokenizers 0.23 with each model's own expressions
WORDS = {
    "llama-bpe": "I|'LL| don|'t|\t| €|123|4½|…\n\n| | x|÷yZ| 世の|\u3000ok|/\r\n|µÄé|`_|b",
    "qwen2": "I|'LL| don|'t|\t| €|1|2|3|4|½|…\n\n| | x|÷yZ| 世の|\u3000ok|/\r\n|µÄé|`_|b",
    "gpt-4o": "I'LL| don't|\t| €|123|4½|…\n\n| | x|÷y|Z| 世の|\u3000ok|/\r\n|µ|Äé|`_|b",
    "tekken": "I|'LL| don|'t|\t| €|1|2|3|4|½|…\n\n| | x|÷y|Z| 世の|\u3000ok|/\r\n|µ|Äé|`_|b",
    "kimi-k2": "I'LL| don't|\t| €|123|4½|…\n\n| | x|÷y|Z| |世|の|\u3000ok|/\r\n|µ|Äé|`_|b",
    "seed-coder": "I|'LL| don|'t|\t| €|1|2|3|4|½|…|\n\n| | x|÷yZ| 世の|\u3000ok|/|\r\n|µÄé|`_|b",
    "deepseek-v3": "I|'LL| don|'t|\t| €|123|4½|…\n\n| | x|÷|yZ| |世の|\u3000ok|/\r\n|µÄé|`_|b",
    "deepseek-coder": "I|'|LL| don|'|t|\t |€|1|2|3|4|½|…|\n|\n| | x|÷|yZ| |世の|\u3000|ok|/|\r|\n|µÄé|`|_|b",
    "deepseek-llm": "I|'|LL| don|'|t|\t |€|1234½|…|\n|\n| | x|÷|yZ| |世の|\u3000|ok|/|\r|\n|µÄé|`_|b",
    "gpt-2": "I|'|LL| don|'t|\t| €|1234½|…|\n\n | x|÷|yZ| 世の|\u3000|ok|/|\r|\n|µÄé|`_|b",
    "starcoder": "I|'|LL| don|'t|\t| €|1|2|3|4|½|…|\n\n | x|÷|yZ| 世の|\u3000|ok|/|\r|\n|µÄé|`_|b",
    "falcon": "I|'|LL| don|'|t|\t| €|123|4½|…|\n\n | x|÷|yZ| 世の|\u3000|ok|/|\r|\n|µÄé|`_|b",
}


@pytest.mark.parametrize("name", WORDS)
def test_words_of_the_pre_tokenizers(name: str) -> None:
    assert KNOWN[name].split(WORDS[name].replace("|", "")) == WORDS[name].split("|")


@given(st.sampled_from(sorted(KNOWN)), st.text())
def test_pre_tokenizers_lose_nothing(name: str, text: str) -> None:
    assert "".join(KNOWN[name].split(text)) == text


GOOD = bpe_metadata(["a b"])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": None}, "key tokenizer.ggml.model is missing, known are llama, gpt2 and gemma4"),
        (
            {"model": "rwkv"},
            "key tokenizer.ggml.model is the unknown tokenizer rwkv, known are llama, gpt2 and gemma4",
        ),
        ({"model": 3}, "key tokenizer.ggml.model is not a string"),
        (
            {"pre": "x\ny"},
            r"key tokenizer.ggml.pre names the unknown pre-tokenizer x\ny, known are default, gpt-2",
        ),
        ({"tokens": None}, "key tokenizer.ggml.tokens is missing"),
        ({"tokens": ()}, "key tokenizer.ggml.tokens is empty"),
        ({"tokens": np.arange(3)}, "key tokenizer.ggml.tokens is not an array of strings"),
        ({"tokens": "abc"}, "key tokenizer.ggml.tokens is not an array of strings"),
        ({"tokens": ["a", "b", "a"]}, "key tokenizer.ggml.tokens has the token a more than once"),
        ({"token_type": [1, 2]}, "key tokenizer.ggml.token_type has 2 values for 257 tokens"),
        ({"token_type": ["x"]}, "key tokenizer.ggml.token_type is not an array of numbers"),
        ({"token_type": np.full(300, np.nan)}, "key tokenizer.ggml.token_type is not an array of numbers"),
        ({"merges": None}, "key tokenizer.ggml.merges is missing"),
        ({"merges": [1]}, "key tokenizer.ggml.merges is not an array of strings"),
        ({"eos_token_id": "x"}, "key tokenizer.ggml.eos_token_id is not an integer"),
        ({"add_bos_token": 1}, "key tokenizer.ggml.add_bos_token is not a bool"),
        ({"add_bos_token": True}, "key tokenizer.ggml.add_bos_token is true but there is no bos_token_id"),
        ({"add_eos_token": True, "eos_token_id": 999}, "add_eos_token is true but there is no eos_token_id"),
        ({"model": "llama", "scores": [0.5]}, "key tokenizer.ggml.scores has 1 values for 257 tokens"),
    ],
)
def test_malformed_metadata_is_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    metadata = GOOD | {f"tokenizer.ggml.{k}": v for k, v in changes.items()}
    with pytest.raises(LoadError) as e:
        from_metadata({k: v for k, v in metadata.items() if v is not None}, "m.gguf")
    assert str(e.value).startswith("m.gguf: ")
    assert sentence in str(e.value)
    assert "\n" not in str(e.value)


def test_an_id_outside_the_vocabulary_is_an_error() -> None:
    for token in (-1, BPE.n_vocab):
        with pytest.raises(Error, match=f"token {token} is outside the vocabulary of {BPE.n_vocab} tokens"):
            BPE.decode([token])


SPM = spm(TestSpm.pieces | {"bb": -1.0, "▁▁": -1.0, "cab": -3.0})
BPE = bpe(TestBpe.merges)
