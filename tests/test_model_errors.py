"""Broken hyper-parameters and tensors of every architecture: one sentence that names the file, never a traceback."""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from running import model_path
from tiny.files import MODELS

from graphsched.arch import registry as arch
from graphsched.errors import LoadError
from graphsched.gguf.loader import ModelFile, open_model
from graphsched.session.model import Model
from graphsched.session.options import SessionOptions

# What a key may be set to, by its type; some values are right for some keys.
BAD: dict[type, tuple[Any, ...]] = {
    int: (0, -1, 1, 3, 7, 1000, 2**31 - 1, 2**40, "text", 0.5, True, np.arange(3)),
    float: (0.0, -1.0, 1.0, 1e-38, 3e38, float("nan"), float("inf"), "text", np.arange(3.0)),
    str: ("", "magic", "yarn", 3, "x" * 500, "\x1b[2J"),
    bool: (True, 1, "yes"),
}
# Tensors that a model of the family may come without.
OPTIONAL = r"output\.weight|rope_freqs|exp_probs_b|attn_(q|k)_norm|attn_k_b|attn_v_b|ffn_gate_inp\.weight"


FEW = 7  # layers: of a deeper model the first ones are enough, all others are built alike


def file_of(name: str) -> ModelFile:
    file = open_model(model_path(name))
    key = f"{file.metadata['general.architecture']}.block_count"
    if file.get(key, int) > FEW:
        file.metadata = {**file.metadata, key: 3}
        file.tensors = {n: t for n, t in file.tensors.items() if not re.match(r"blk\.([3-9]|\d\d)\.", n)}
    return file


def build(file: ModelFile) -> None:
    model = Model(file)
    model.graph(4, 4, 16, SessionOptions())
    _ = model.n_vocab


def error_of(file: ModelFile) -> str:
    """The sentence, or nothing if the model is taken as it is. Anything but a LoadError fails the test."""
    with suppress(LoadError):
        build(file)
        return ""
    with pytest.raises(LoadError) as caught:
        build(file)
    return str(caught.value)


def with_key(file: ModelFile, key: str, value: Any) -> ModelFile:
    file.metadata = {**file.metadata, key: value}
    return file


def architecture_keys(file: ModelFile) -> list[str]:
    return [k for k in file.metadata if not k.startswith(("general.", "tokenizer."))]


def good_sentence(sentence: str, file: ModelFile) -> bool:
    names_part = re.search(r"(key|tensor|missing key|missing tensor) \S+", sentence) is not None
    return (
        sentence.startswith(f"{file.path.name}: ")
        and names_part
        and sentence.isprintable()
        and len(sentence) < 300
    )


@pytest.mark.parametrize("name", MODELS)
def test_wrong_values_give_a_sentence(name: str) -> None:
    """Of each key every third value; most keys are those of many models, which take the others."""
    metadata = file_of(name).metadata
    for number, key in enumerate(architecture_keys(file_of(name)), MODELS.index(name)):
        for value in BAD[type(metadata[key])][number % 3 :: 3]:
            file = with_key(file_of(name), key, value)
            sentence = error_of(file)
            assert not sentence or good_sentence(sentence, file), f"{key} = {value!r}: {sentence}"


@pytest.mark.parametrize("name", MODELS)
def test_absent_keys_give_a_sentence(name: str) -> None:
    for key in architecture_keys(file_of(name)):
        file = file_of(name)
        file.metadata = {k: v for k, v in file.metadata.items() if k != key}
        sentence = error_of(file)
        assert not sentence or good_sentence(sentence, file), f"without {key}: {sentence}"


def one_of_each(file: ModelFile) -> Iterator[str]:
    """Tensor names, those that only differ in the layer once."""
    yield from {re.sub(r"blk\.\d+\.", "", n): n for n in reversed(list(file.tensors))}.values()


@pytest.mark.parametrize("name", MODELS)
def test_absent_tensors_are_named(name: str) -> None:
    for tensor in one_of_each(file_of(name)):
        file = file_of(name)
        file.tensors = {n: t for n, t in file.tensors.items() if n != tensor}
        sentence = error_of(file)
        if re.search(OPTIONAL, tensor):
            assert not sentence or good_sentence(sentence, file), f"without {tensor}: {sentence}"
        else:
            assert sentence.startswith(f"{file.path.name}: missing tensor "), f"without {tensor}: {sentence}"
            apart = "attn_qkv" in tensor and "attn_q.weight" in sentence  # one matrix, or the three
            assert tensor in sentence or "attn_q_a" in sentence or "attn_k_b" in sentence or apart


@pytest.mark.parametrize("name", MODELS)
def test_wrong_shapes_are_named(name: str) -> None:
    for tensor in one_of_each(file_of(name)):
        shape = file_of(name).tensors[tensor].shape
        for wrong in ((*shape[:-1], shape[-1] + 32), (1, *shape), shape[1:], (shape[0] + 1, *shape[1:])):
            file = file_of(name)
            file.tensors = {**file.tensors, tensor: replace(file.tensors[tensor], shape=wrong)}
            sentence = error_of(file)
            if tensor == "token_embd.weight" and wrong == (513, 128) and not sentence:
                continue  # a tied vocabulary may have any size
            assert sentence.startswith(f"{file.path.name}: tensor "), f"{tensor} {wrong}: {sentence}"


CASES: list[tuple[str, dict[str, Any], str]] = [
    (
        "llama",
        {"attention.head_count": 0},
        "key llama.attention.head_count is 0, an integer from 1 to 2147483647 is needed",
    ),
    (
        "llama",
        {"attention.head_count_kv": 3},
        "key llama.attention.head_count_kv is 3, a divisor of the 2 heads is needed",
    ),
    ("llama", {"block_count": 5000}, "key llama.block_count is 5000, the file has 2 layers"),
    (
        "llama",
        {"attention.head_count": 200},
        "key llama.attention.key_length is absent and would be 0, an integer from 1 to 2147483647 is needed",
    ),
    (
        "mixtral",
        {"expert_used_count": 9},
        "key llama.expert_used_count is 9, an integer from 1 to the 8 experts is needed",
    ),
    ("qwen3", {"embedding_length": 64}, "tensor token_embd.weight has shape [512, 128], [any, 64] is needed"),
    (
        "gpt-oss",
        {"rope.scaling.type": "magic"},
        "key gpt-oss.rope.scaling.type is magic, one of none, linear, yarn, longrope is needed",
    ),
    ("gpt-oss", {"rope.freq_base": 1.0}, "key gpt-oss.rope.freq_base is 1.0, a number above 1 is needed"),
    (
        "deepseek2-v3",
        {"expert_group_count": 3},
        "key deepseek2.expert_group_count is 3, a divisor of the 16 experts is needed",
    ),
    (
        "deepseek2-v3",
        {"rope.dimension_count": 96},
        "key deepseek2.rope.dimension_count is 96, less than the head size 96 is needed",
    ),
    (
        "glm4moe",
        {"nextn_predict_layers": 3},
        "key glm4moe.nextn_predict_layers is 3, less than the 3 layers is needed",
    ),
    (
        "gemma3",
        {"attention.sliding_window_pattern": np.array([True])},
        "key gemma3.attention.sliding_window_pattern is an array, a number or one value for each of 7 layers is needed",
    ),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), CASES)
def test_sentences(name: str, changes: dict[str, Any], sentence: str) -> None:
    file = file_of(name)
    prefix = str(file.metadata["general.architecture"])
    file.metadata = {**file.metadata, **{f"{prefix}.{k}": v for k, v in changes.items()}}
    assert error_of(file) == f"{file.path.name}: {sentence}"


def test_unknown_architecture_is_told_the_nearest() -> None:
    with pytest.raises(LoadError) as caught:
        arch.get("qwen3-moe", "x.gguf")
    assert {"llama", "qwen3moe", "deepseek2", "gpt-oss"} <= {*arch.names()}
    sentence = r"nearest are qwen3moe, \S+, \S+; `graphsched models` lists all"
    assert re.fullmatch(f"x.gguf: unknown architecture 'qwen3-moe'; {sentence}", str(caught.value))


@pytest.mark.parametrize("name", ["", "bitnet_25", "__init__", "../llama", "os", "llama\n"])
def test_names_that_are_no_architecture(name: str) -> None:
    with pytest.raises(LoadError, match="unknown architecture"):
        arch.get(name, "x.gguf")


def test_summary_is_one_line() -> None:
    model = Model(file_of("deepseek2-v3"))
    line = model.summary(SessionOptions(mla=1))
    parameters = "1.60M parameters (1.01M active)"
    sizes = "3.2 MB (F16 3.2 MB, F32 0.0 MB)"
    cache = 2 * 2 * (288 + 256) / 1024  # two layers, two bytes
    assert line == f"{model.name}: deepseek2, {parameters}, {sizes}, KV cache {cache:.1f} KiB per token"
