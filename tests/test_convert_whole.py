"""Conversion looks at the whole checkpoint before it writes, and writes nothing that `run` would refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_torch
from hf_folders import (
    BYTE_LEVEL,
    CONFIG,
    N_VOCAB,
    WORDS,
    drawn,
    folder_of,
    tokenizer_json,
    write_json,
    write_safetensors,
)

import graphsched
from graphsched.cli import main as cli
from graphsched.convert.vocab import read_tokenizer
from graphsched.errors import Error
from graphsched.gguf.loader import open_model
from graphsched.text.tokenizer import from_metadata

pytest.importorskip("safetensors")
INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"


def whole(name: str) -> bool:
    return True


def no_mlp(name: str) -> bool:
    return "layers.1.mlp" not in name


def convert(folder: Path, *args: str) -> tuple[int, Path]:
    out = folder.parent / "out.gguf"
    return cli.run(["convert", str(folder), str(out), *args]), out


def refused(folder: Path, sentence: str, capsys: pytest.CaptureFixture[str], *args: str) -> None:
    code, out = convert(folder, *args)
    err = capsys.readouterr().err
    assert code == 2, err
    assert sentence in err
    assert err.count("\n") == 1
    assert not out.exists()


def write_index(folder: Path, index: str, names: dict[str, str]) -> None:
    write_json(folder / index, {"metadata": {}, "weight_map": names})


# --- files ---

LOST_PARTS: dict[str, tuple[dict[str, Callable[[str], bool]], str]] = {
    "one of two": (
        {"model-00001-of-00002.safetensors": whole},
        "part 2 of 2 is missing, model-00002-of-00002",
    ),
    "the first of three": (
        {
            "model-00002-of-00003.safetensors": no_mlp,
            "model-00003-of-00003.safetensors": lambda n: not no_mlp(n),
        },
        "part 1 of 3 is missing, model-00001-of-00003.safetensors",
    ),
    "other names": (
        {"weights-00002-of-00002.safetensors": whole},
        "part 1 of 2 is missing, weights-00001-of-00002",
    ),
    "twice": (
        {"model-a.safetensors": whole, "model-b.safetensors": lambda n: n == "model.norm.weight"},
        "model-b.safetensors: tensor model.norm.weight is also in model-a.safetensors",
    ),
    "no layers": ({"model.safetensors": no_mlp}, "hf: missing tensor blk.1.ffn_"),
    "no output": (
        {"model.safetensors": lambda n: n != "lm_head.weight"},
        "hf: there is no lm_head.weight, and tie_word_embeddings is false",
    ),
}


@pytest.mark.parametrize("case", LOST_PARTS)
def test_weights_that_are_not_all_there(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files, sentence = LOST_PARTS[case]
    refused(folder_of(tmp_path / "hf", files=files), sentence, capsys)


def test_every_name_of_the_index_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = "model-00001-of-00001.safetensors"
    folder = folder_of(tmp_path / "hf", files={part: no_mlp})
    write_index(folder, INDEX, dict.fromkeys(drawn(), part))
    refused(folder, "lists tensor model.layers.1.mlp.gate_proj.weight and 2 more, which model-00001", capsys)
    write_safetensors(folder / part, drawn())
    write_safetensors(folder / "model-b.safetensors", {"x": np.ones(2, np.float32)})
    write_index(folder, INDEX, dict.fromkeys(drawn(), part) | {"model.norm.weight": "model-b.safetensors"})
    refused(folder, "lists tensor model.norm.weight, which model-b.safetensors lacks", capsys)
    write_index(folder, INDEX, {})
    refused(folder, f"{INDEX}: has no weight_map", capsys)
    write_index(folder, INDEX, {"model.norm.weight": "../model.safetensors"})
    refused(folder, "names the file ../model.safetensors, which is not there", capsys)


@pytest.mark.parametrize("left_over", ["consolidated.safetensors", "consolidated-00001-of-00002.safetensors"])
def test_files_beside_the_model_are_named(
    tmp_path: Path, left_over: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(
        tmp_path / "hf", files={"model.safetensors": whole, left_over: lambda n: n == "lm_head.weight"}
    )
    assert convert(folder)[0] == 0
    assert capsys.readouterr().err == f"hf: {left_over} is not read\n"


def test_an_adapter_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "hf", files={"adapter_model.safetensors": whole})
    write_json(folder / "adapter_config.json", {"peft_type": "LORA"})
    refused(folder, "hf: is an adapter, which has to be merged into its model first", capsys)


@pytest.mark.parametrize("parts", [1, 2])
def test_files_of_torch_save(tmp_path: Path, parts: int) -> None:
    """pytorch_model.bin, whole or in parts with an index, gives the bytes of safetensors."""
    folder, tensors = folder_of(tmp_path / "hf"), drawn()
    assert convert(folder)[0] == 0
    expected = (tmp_path / "out.gguf").read_bytes()
    (folder / "model.safetensors").unlink()
    names = (
        [f"pytorch_model-{i + 1:05}-of-{parts:05}.bin" for i in range(parts)]
        if parts > 1
        else ["pytorch_model.bin"]
    )
    place = {n: names[i % parts] for i, n in enumerate(tensors)}
    for name in names:
        write_torch(folder / name, {n: t for n, t in tensors.items() if place[n] == name})
    if parts > 1:
        write_index(folder, BIN_INDEX, place)
    code, out = convert(folder)
    assert code == 0
    with open_model(out) as file:
        assert file.metadata["general.architecture"] == "llama"
        np.testing.assert_array_equal(file.array("output.weight"), tensors["lm_head.weight"])
    assert len(out.read_bytes()) == len(expected)


def test_a_part_of_torch_save_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "hf", files={})
    (folder / "model.safetensors").unlink()
    write_torch(folder / "pytorch_model-00002-of-00002.bin", drawn())
    refused(folder, "part 1 of 2 is missing, pytorch_model-00001-of-00002.bin", capsys)


# --- tensors ---


def fused(tensors: dict[str, Any], n: int) -> dict[str, Any]:
    """All experts of a layer in two tensors, as newer checkpoints have them."""
    out = {name: t for name, t in tensors.items() if ".experts." not in name}
    for i in range(2):
        prefix = f"model.layers.{i}.mlp.experts"
        parts = {
            k: np.stack([tensors[f"{prefix}.{e}.{k}.weight"] for e in range(n)])
            for k in ("gate_proj", "up_proj", "down_proj")
        }
        out[f"{prefix}.gate_up_proj"] = np.concatenate([parts["gate_proj"], parts["up_proj"]], 1)
        out[f"{prefix}.down_proj"] = parts["down_proj"]
    return out


MOE = {"architectures": ["Qwen3MoeForCausalLM"], "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2}
MOE |= {"moe_intermediate_size": 96, "intermediate_size": 128}


def test_experts_in_one_tensor_are_those_of_single_ones(tmp_path: Path) -> None:
    tensors = drawn(n_experts=4)
    _, out = convert(folder_of(tmp_path / "hf", tensors, config=MOE))
    apart = out.read_bytes()
    code, out = convert(folder_of(tmp_path / "hf", fused(tensors, 4), config=MOE))
    assert code == 0
    with open_model(out) as file:
        for part, theirs in {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}.items():
            own = file.array(f"blk.1.ffn_{part}_exps.weight")
            np.testing.assert_array_equal(own[3], tensors[f"model.layers.1.mlp.experts.3.{theirs}.weight"])
    assert len(out.read_bytes()) == len(apart)
    assert np.isfinite(graphsched.load(out, n_ctx=32).eval([1, 2, 3])).all()


def test_tensors_that_the_architecture_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`run` would refuse these files, or leave a tensor out; they are not written."""
    experts, dense = drawn(n_experts=4), drawn()
    half = {n: t for n, t in experts.items() if "layers.1.mlp" not in n}
    half |= {n: t for n, t in dense.items() if "layers.1.mlp" in n}
    folder = folder_of(tmp_path / "hf", half, config=MOE | {"mlp_only_layers": [1], "intermediate_size": 96})
    refused(folder, "hf: missing tensor blk.1.ffn_", capsys)
    folder = folder_of(tmp_path / "hf", fused(experts, 4), config=MOE | {"moe_intermediate_size": 48})
    refused(folder, "experts.gate_up_proj has the shape [4, 192, 64], [experts, 96, 64] is needed", capsys)
    folder = folder_of(tmp_path / "hf", experts, config=MOE | {"num_experts": 8})
    refused(folder, "hf: ", capsys)
    for name, gguf in {"self_attn.q_norm": "attn_q_norm", "mlp.ffn_sub_norm": "ffn_sub_norm"}.items():
        folder = folder_of(
            tmp_path / "hf", dense | {f"model.layers.0.{name}.weight": np.ones(16, np.float32)}
        )
        refused(
            folder, f"hf: blk.0.{gguf}.weight would be left out, llama models have no such tensor", capsys
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden_act": "gelu"}, "config.json: hidden_act is gelu, llama models have silu"),
        ({"partial_rotary_factor": 0.5}, "config.json: partial_rotary_factor is 0.5, llama models turn all"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
            "partial_rotary_factor is 0.25",
        ),
        ({"num_key_value_heads": 4}, "hf: "),
    ],
)
def test_a_config_of_another_kind_of_model(
    tmp_path: Path, change: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(folder_of(tmp_path / "hf", config=change), sentence, capsys)


def test_a_window_that_is_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(folder_of(tmp_path / "hf", config={"sliding_window": 64}))[0] == 0
    assert "sliding_window 64 is left out, every layer sees the whole context" in capsys.readouterr().err
    for change in ({"sliding_window": 128}, {"sliding_window": 64, "use_sliding_window": False}):
        assert convert(folder_of(tmp_path / "hf", config=change))[0] == 0
        assert capsys.readouterr().err == ""


# --- values ---


@pytest.mark.parametrize(
    ("kind", "value", "sentence"),
    [
        ("f16", 70000.0, "blk.0.ffn_down.weight: has a weight of 70000, which F16 cannot hold; BF16 can"),
        ("q8_0", 1e7, "blk.0.ffn_down.weight: has a weight of 1e+07, which Q8_0 cannot hold; BF16 can"),
        ("bf16", 3.4e38, "blk.0.ffn_down.weight: has a weight of 3.4e+38, which BF16 cannot hold; F32 can"),
        ("f16", -65520.0, "which F16 cannot hold"),
        ("bf16", 70000.0, None),
        ("f32", 3.4e38, None),
        ("f16", 65504.0, None),
        ("q8_0", 70000.0, None),
    ],
)
def test_values_after_the_cast(
    tmp_path: Path, kind: str, value: float, sentence: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = drawn()
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] = value
    folder = folder_of(tmp_path / "hf", tensors)
    if sentence is not None:
        return refused(folder, sentence, capsys, "--outtype", kind)
    code, out = convert(folder, "--outtype", kind)
    assert code == 0
    with open_model(out) as file:
        stored = (
            float(file.array("blk.0.ffn_down.weight").astype(np.float32)[0, 0]) if kind != "bf16" else value
        )
        assert stored == pytest.approx(value, rel=0.01)
    return None


def test_a_double_that_is_no_float(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors: dict[str, Any] = dict(drawn())
    tensors["model.norm.weight"] = np.full(64, 1e300)
    refused(
        folder_of(tmp_path / "hf", tensors), "output_norm.weight: has weights that are not finite", capsys
    )


# --- tokenizers ---


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(parts)}


def split(**more: Any) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated", "invert": False} | more


STRANGE: dict[str, tuple[dict[str, Any], str]] = {
    "Punctuation": (
        {"pre_tokenizer": sequence({"type": "Punctuation"}, BYTE_LEVEL)},
        "pre_tokenizer Punctuation",
    ),
    "Whitespace": ({"pre_tokenizer": sequence({"type": "WhitespaceSplit"}, BYTE_LEVEL)}, "WhitespaceSplit"),
    "Contiguous": ({"pre_tokenizer": sequence(split(behavior="Contiguous"), BYTE_LEVEL)}, "Split Contiguous"),
    "MergedWithNext": (
        {"pre_tokenizer": sequence(split(behavior="MergedWithNext"), BYTE_LEVEL)},
        "MergedWithNext",
    ),
    "inverted": ({"pre_tokenizer": sequence(split(invert=True), BYTE_LEVEL)}, "Split Isolated inverted"),
    "prefix space": (
        {"pre_tokenizer": BYTE_LEVEL | {"add_prefix_space": True}},
        "ByteLevel with add_prefix_space",
    ),
    "order": ({"pre_tokenizer": sequence(BYTE_LEVEL, split())}, "ByteLevel in front of others"),
    "characters": ({"pre_tokenizer": split()}, "without ByteLevel"),
    "nothing": ({"pre_tokenizer": None}, "without ByteLevel"),
    "Lowercase": ({"normalizer": {"type": "Lowercase"}}, "normalizer Lowercase"),
    "NFKC": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}},
        "NFKC",
    ),
    "decoder": ({"decoder": {"type": "WordPiece"}}, "decoder WordPiece"),
    "Roberta": ({"post_processor": {"type": "RobertaProcessing"}}, "post_processor RobertaProcessing"),
    "ends": (
        {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a"}}] * 2}},
        "post_processor TemplateProcessing",
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_part_of_the_tokenizer_that_is_not_understood(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, name = STRANGE[case]
    folder = folder_of(tmp_path / "hf", tokenizer=changes)
    refused(folder, "tokenizer.json: its pre-tokenizer is none that is known here (", capsys)
    assert convert(folder, "--pre", "gpt-2")[0] == 0
    assert name in (err := capsys.readouterr().err)
    assert "is left out" in err


@pytest.mark.parametrize(
    ("changes", "pre", "err"),
    [
        ({}, "gpt-2", ""),
        ({"normalizer": {"type": "Sequence", "normalizers": []}}, "gpt-2", ""),
        ({"normalizer": {"type": "NFC"}}, "gpt-2", "tokenizer.json: normalizer NFC is left out\n"),
        ({"pre_tokenizer": sequence(split(), BYTE_LEVEL)}, "starcoder", ""),
        (
            {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": True}, BYTE_LEVEL)},
            "starcoder",
            "",
        ),
        ({"pre_tokenizer": sequence(sequence(split()), BYTE_LEVEL)}, "starcoder", ""),
        ({"decoder": {"type": "ByteLevel"}}, "gpt-2", ""),
    ],
)
def test_parts_that_a_file_can_say(
    tmp_path: Path, changes: dict[str, Any], pre: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = convert(folder_of(tmp_path / "hf", tokenizer=changes))
    assert (code, capsys.readouterr().err) == (0, err)
    with open_model(out) as file:
        assert file.metadata["tokenizer.ggml.pre"] == pre
        assert file.metadata["tokenizer.ggml.add_bos_token"] is False


def test_merges_that_are_ignored_are_a_key(tmp_path: Path) -> None:
    model = tokenizer_json()["model"] | {"ignore_merges": True}
    _, out = convert(folder_of(tmp_path / "hf", tokenizer={"model": model}))
    with open_model(out) as file:
        assert file.metadata["tokenizer.ggml.pre"] == "gpt-2"
        assert file.metadata["tokenizer.ggml.ignore_merges"] is True


@pytest.mark.parametrize("pre", ["nonsense", "GPT-2", ""])
def test_an_unknown_pre_tokenizer_is_refused_at_once(
    tmp_path: Path, pre: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(
        folder_of(tmp_path / "hf"),
        f"--pre {pre}: is no known pre-tokenizer; there are default",
        capsys,
        "--pre",
        pre,
    )


def varint(n: int) -> bytes:
    return bytes([n & 127 | 128]) + varint(n >> 7) if n > 127 else bytes([n])


def field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(payload)) + payload


def only_sentencepiece(folder: Path, specs: bytes = b"") -> None:
    """A tokenizer.model of bytes and two words, without tokenizer.json."""
    (folder / "tokenizer.json").unlink()
    pieces = [
        ("<unk>", 2),
        ("<s>", 3),
        ("</s>", 3),
        *((f"<0x{i:02X}>", 6) for i in range(256)),
        ("▁hello", 1),
        ("▁", 1),
    ]
    data = b"".join(
        field(1, field(1, text.encode()) + b"\x15" + np.float32(-1).tobytes() + bytes([3 << 3, kind]))
        for text, kind in pieces
    )
    (folder / "tokenizer.model").write_bytes(data + specs)


def test_tokens_of_added_tokens_json(tmp_path: Path) -> None:
    """Ids behind the model's own, and the end token among them; what no file calls special is text."""
    folder = folder_of(tmp_path / "hf")
    only_sentencepiece(folder)
    write_json(folder / "added_tokens.json", {"<|im_end|>": 261, "<|im_start|>": 262, "<tool>": 263})
    write_json(folder / "tokenizer_config.json", {"bos_token": "<s>"})
    more = {"eos_token": {"content": "<|im_end|>"}, "additional_special_tokens": ["<|im_start|>"]}
    write_json(folder / "special_tokens_map.json", more)
    keys = read_tokenizer(folder, N_VOCAB).keys
    assert keys["tokenizer.ggml.tokens"][260:264] == ("▁", "<|im_end|>", "<|im_start|>", "<tool>")  # type: ignore[index]
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (1, 261)
    assert keys["tokenizer.ggml.token_type"][260:264].tolist() == [1, 3, 3, 4]  # type: ignore[index,union-attr]
    assert from_metadata(keys).encode("<|im_end|>", add_special=False, parse_special=True) == [261]


def test_files_that_disagree_about_a_token(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hf")
    write_json(folder / "added_tokens.json", {"<|other|>": 262})
    with pytest.raises(
        Error, match=r"^added_tokens\.json: token 262 is <\|other\|>, in tokenizer\.json it is <\|im_end"
    ):
        read_tokenizer(folder, N_VOCAB)


def test_special_tokens_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "hf")
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|lost|>"})
    refused(folder, "tokenizer_config.json: eos_token <|lost|> is no token of this vocabulary", capsys)
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>", "pad_token": "[PAD]"})
    assert convert(folder)[0] == 0
    assert "pad_token [PAD] is no token of this vocabulary and left out" in capsys.readouterr().err
    write_json(folder / "tokenizer_config.json", {"sep_token": "<think>"})
    write_json(
        folder / "special_tokens_map.json",
        {"eos_token": "<|im_start|>", "pad_token": {"content": "<|im_end|>"}},
    )
    write_json(folder / "config.json", CONFIG | {"eos_token_id": 3})
    keys = read_tokenizer(folder, N_VOCAB).keys
    ids = ("eos", "padding", "seperator")
    assert [keys[f"tokenizer.ggml.{n}_token_id"] for n in ids] == [261, 262, 263]


def test_tokens_of_the_decoder_table(tmp_path: Path) -> None:
    """tokenizer_config.json lists what tokenizer.json may lack."""
    folder = folder_of(tmp_path / "hf", tokenizer={"added_tokens": []})
    table = {"262": {"content": "<|im_end|>", "special": True}, "270": {"content": "<note>", "rstrip": True}}
    write_json(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>", "added_tokens_decoder": table})
    found = read_tokenizer(folder, N_VOCAB)
    assert found.keys["tokenizer.ggml.eos_token_id"] == 262
    assert found.keys["tokenizer.ggml.tokens"][270] == "<note>"  # type: ignore[index]
    assert found.notes == ("added tokens keep the white space beside them that they should take: <note>",)


@pytest.mark.parametrize(
    ("specs", "keys"),
    [
        (b"", {}),
        (field(3, b"\x18\x00\x20\x00"), {"add_space_prefix": False, "remove_extra_whitespaces": False}),
        (
            field(3, field(1, b"identity") + b"\x18\x01"),
            {"add_space_prefix": True, "remove_extra_whitespaces": True},
        ),
        (
            field(2, b"\x18\x02") + field(3, b"\x20\x00"),
            {"add_space_prefix": True, "remove_extra_whitespaces": False},
        ),
    ],
)
def test_white_space_of_sentencepiece(tmp_path: Path, specs: bytes, keys: dict[str, bool]) -> None:
    folder = folder_of(tmp_path / "hf")
    only_sentencepiece(folder, specs)
    write_json(folder / "tokenizer_config.json", {"eos_token": "</s>"})
    found = read_tokenizer(folder, N_VOCAB).keys
    spaces = ("add_space_prefix", "remove_extra_whitespaces")
    assert {k: found[f"tokenizer.ggml.{k}"] for k in spaces if f"tokenizer.ggml.{k}" in found} == keys


@pytest.mark.parametrize(
    ("specs", "sentence"),
    [
        (field(2, b"\x18\x01"), "tokenizer.model: its model is Unigram, BPE is needed"),
        (field(2, b"\x18\x04"), "tokenizer.model: its model is character, BPE is needed"),
        (field(3, field(1, b"nmt_nfkc") + field(2, b"abc")), "its normalizer nmt_nfkc changes characters"),
    ],
)
def test_a_sentencepiece_model_of_another_kind(tmp_path: Path, specs: bytes, sentence: str) -> None:
    folder = folder_of(tmp_path / "hf")
    only_sentencepiece(folder, specs)
    with pytest.raises(Error, match=sentence):
        read_tokenizer(folder, N_VOCAB)


@pytest.mark.parametrize(
    ("changes", "space"),
    [
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}}, True),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}}, False),
        ({"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}}, False),
        ({"normalizer": {"type": "Lowercase"}}, None),
        ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}}, None),
        ({"pre_tokenizer": {"type": "Whitespace"}}, None),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "_"}}, None),
    ],
)
def test_a_fast_tokenizer_of_sentencepieces_kind(
    tmp_path: Path, changes: dict[str, Any], space: bool | None
) -> None:
    vocab = {"<unk>": 0, **{f"<0x{i:02X}>": 1 + i for i in range(256)}, "▁": 257, "a": 258}
    model = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": vocab, "merges": []}
    folder = folder_of(
        tmp_path / "hf", tokenizer={"model": model, "added_tokens": [], "pre_tokenizer": None} | changes
    )
    write_json(folder / "tokenizer_config.json", {})
    if space is None:
        with pytest.raises(Error, match=r"^tokenizer\.json: .* is nothing that a GGUF file can say$"):
            read_tokenizer(folder, N_VOCAB)
    else:
        assert read_tokenizer(folder, N_VOCAB).keys["tokenizer.ggml.add_space_prefix"] is space


def test_vocab_json_and_merges_txt(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hf")
    from_json = read_tokenizer(folder, N_VOCAB, "qwen2").keys
    (folder / "tokenizer.json").unlink()
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(WORDS)})
    (folder / "merges.txt").write_text("#version: 0.2\nh e\nl l\nhe ll\nhell o\n")
    added = {"<|bos|>": 260, "<|im_start|>": 261, "<|im_end|>": 262, "<think>": 263}
    write_json(folder / "added_tokens.json", added)
    with pytest.raises(
        Error, match="tokenizer_class is None; --pre NAME says which pre-tokenizer it is like"
    ):
        read_tokenizer(folder, N_VOCAB)
    config = {"tokenizer_class": "Qwen2TokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    write_json(folder / "tokenizer_config.json", config)
    keys = read_tokenizer(folder, N_VOCAB).keys
    for name in ("pre", "tokens", "merges", "bos_token_id", "eos_token_id"):
        assert keys[f"tokenizer.ggml.{name}"] == from_json[f"tokenizer.ggml.{name}"]


# --- the command ---


def test_a_dry_run_and_a_vocabulary_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = folder_of(tmp_path / "hf"), tmp_path / "v.gguf"
    assert cli.run(["convert", str(folder), "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(drawn())
    assert not list(tmp_path.glob("*.gguf"))
    assert cli.run(["convert", str(folder), "--vocab-only", "--outfile", str(out)]) == 0
    with open_model(out) as file:
        assert not file.tensors
        assert len(file.get("tokenizer.ggml.tokens", tuple)) == N_VOCAB
    assert cli.run(["convert", str(folder)]) == 2
    assert cli.run(["convert", str(folder), str(out), "--outfile", str(out)]) == 2


def test_a_snapshot_of_the_cache_has_the_models_name(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--Tiny-Model" / "snapshots" / ("0f" * 20)
    folder.parent.mkdir(parents=True)
    folder_of(folder)
    out = tmp_path / "out.gguf"
    assert cli.run(["convert", str(folder), str(out)]) == 0
    with open_model(out) as file:
        assert file.metadata["general.name"] == "Tiny-Model"
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == N_VOCAB


def test_an_output_matrix_that_a_config_ties_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors, tied = drawn(), {"tie_word_embeddings": True}
    code, out = convert(folder_of(tmp_path / "hf", dict(tensors), config=tied))
    assert code == 0
    sentence = "hf: lm_head.weight is left out, as tie_word_embeddings is true, though it differs\n"
    assert capsys.readouterr().err == sentence
    with open_model(out) as file:
        assert "output.weight" not in file.tensors
    same = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    assert convert(folder_of(tmp_path / "hf", dict(same), config=tied))[0] == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "args", [("--split-max-tensors", "8"), ("--split-max-size", "1M"), ("--split-max-size", "1G")]
)
def test_parts_are_the_whole_file(tmp_path: Path, args: tuple[str, str]) -> None:
    folder = folder_of(tmp_path / "hf")
    whole = convert(folder)[1].read_bytes()
    assert cli.run(["convert", str(folder), str(tmp_path / "p.gguf"), *args]) == 0
    first = min(tmp_path.glob("p*.gguf"))
    assert len(list(tmp_path.glob("p*.gguf"))) == (3 if args[1] == "8" else 1)
    assert cli.run(["gguf", "merge", str(first), str(tmp_path / "back.gguf")]) == 0
    assert (tmp_path / "back.gguf").read_bytes() == whole


def test_one_limit_of_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "hf")
    refused(
        folder, "there is one limit of a part", capsys, "--split-max-size", "1G", "--split-max-tensors", "2"
    )
    refused(
        folder,
        "--split-max-size 1T: a number with M or G behind it is needed",
        capsys,
        "--split-max-size",
        "1T",
    )


@pytest.mark.parametrize(("template", "is_named"), [("{% if %}", True), ("{{ messages[0].content }}", False)])
def test_a_template_that_is_none_is_named(
    tmp_path: Path, template: str, is_named: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "hf")
    (folder / "chat_template.jinja").write_text(template)
    assert convert(folder)[0] == 0
    assert ("hf: the chat template is none, Expected an expression" in capsys.readouterr().err) == is_named
