"""The shipped model's file: complete, small, and with a vocabulary that llama.cpp's merging can use."""

from functools import cache
from importlib.resources import as_file, files
from itertools import pairwise
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import quants

import graphsched
from graphsched.arch.cells import blocks_of
from graphsched.graph.graph import from_outputs
from graphsched.run.device import Setup
from graphsched.run.runtime import open_runtime

SIZE_LIMIT = 3 * 1000 * 1000
SPACE = "\u2581"
TEXT = 'Once upon a time, there was a little girl named Lily. "Hello!" she said.'
STORY = TEXT + " One day, Lily went to the park with her dog. The dog ran after a ball and did not come back."


@cache
def model() -> tuple[dict[str, Any], dict[str, Any], int]:
    """Keys, tensors and the size in bytes."""
    with as_file(files("graphsched").joinpath("data/stories.gguf")) as path:
        reader = gguf.GGUFReader(path)
        keys = {name: field.contents() for name, field in reader.fields.items()}
        return keys, {tensor.name: tensor for tensor in reader.tensors}, path.stat().st_size


def encode(text: str, tokens: list[str], scores: list[float]) -> list[int]:
    """SentencePiece's greedy merging over the whole text: best score first, leftmost on ties."""
    ids = {token: i for i, token in enumerate(tokens)}
    symbols = list(SPACE + text.replace(" ", SPACE))
    while pairs := [(scores[ids[a + b]], -at) for at, (a, b) in enumerate(pairwise(symbols)) if a + b in ids]:
        at = -max(pairs)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return [i for s in symbols for i in ([ids[s]] if s in ids else [3 + b for b in s.encode()])]


def test_is_small() -> None:
    assert model()[2] <= SIZE_LIMIT


@pytest.mark.parametrize(
    "key",
    [
        *("general.name", "general.license", "general.file_type", "qwen3moe.block_count"),
        *("qwen3moe.context_length", "qwen3moe.embedding_length", "qwen3moe.feed_forward_length"),
        *("qwen3moe.attention.head_count", "qwen3moe.attention.head_count_kv"),
        *("qwen3moe.attention.layer_norm_rms_epsilon", "qwen3moe.rope.dimension_count"),
        *("qwen3moe.attention.key_length", "qwen3moe.attention.value_length"),
        *("qwen3moe.expert_feed_forward_length", "qwen3moe.rope.freq_base"),
        *("qwen3moe.vocab_size", "tokenizer.chat_template"),
        *("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"),
    ],
)
def test_has_key(key: str) -> None:
    assert key in model()[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "qwen3moe"),
        ("qwen3moe.expert_count", 8),
        ("qwen3moe.expert_used_count", 2),
        ("tokenizer.ggml.model", "llama"),
        ("tokenizer.ggml.unknown_token_id", 0),
        ("tokenizer.ggml.bos_token_id", 1),
        ("tokenizer.ggml.eos_token_id", 2),
        ("tokenizer.ggml.add_bos_token", True),
        ("tokenizer.ggml.add_eos_token", False),
        ("tokenizer.ggml.add_space_prefix", True),
    ],
)
def test_key_value(key: str, value: object) -> None:
    assert model()[0][key] == value


def test_vocabulary_layout() -> None:
    keys = model()[0]
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert tokens[:3] == ["<unk>", "<s>", "</s>"]
    assert tokens[3:259] == [f"<0x{byte:02X}>" for byte in range(256)]
    assert types[:259] == [2, 3, 3, *[6] * 256]
    assert set(types[259:]) == {1}
    assert len(tokens) == len(set(tokens)) == len(types) == keys["qwen3moe.vocab_size"]


def test_scores_fall_with_rank() -> None:
    scores = model()[0]["tokenizer.ggml.scores"][259:]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_pieces_stay_inside_words() -> None:
    """A space only ever starts a piece, so merging word by word equals merging the whole text."""
    assert not [t for t in model()[0]["tokenizer.ggml.tokens"] if SPACE in t[1:]]


@pytest.mark.parametrize("text", [TEXT, "Zoë ate 2 crêpes ☀", "", "a  b"])
def test_round_trip(text: str) -> None:
    keys = model()[0]
    tokens = keys["tokenizer.ggml.tokens"]
    ids = encode(text, tokens, keys["tokenizer.ggml.scores"])
    raw = b"".join(bytes([i - 3]) if i < 259 else tokens[i].encode() for i in ids)
    assert raw.decode().replace(SPACE, " ") == " " + text


def test_story_text_needs_few_tokens() -> None:
    keys = model()[0]
    assert len(encode(TEXT, keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.scores"])) <= 24


def test_tensor_types_and_shapes() -> None:
    keys, tensors, _ = model()
    q8, f32 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32
    assert len(tensors) == 2 + 12 * keys["qwen3moe.block_count"]
    assert "output.weight" not in tensors
    for name, tensor in tensors.items():
        assert tensor.tensor_type == (f32 if "norm" in name or "gate_inp" in name else q8)
        assert tensor.shape[0] % 32 == 0
    embedding = [keys["qwen3moe.embedding_length"], keys["qwen3moe.vocab_size"]]
    assert tensors["token_embd.weight"].shape.tolist() == embedding


@pytest.mark.parametrize("part", ["gate", "up", "down"])
def test_experts_are_one_tensor_per_layer(part: str) -> None:
    keys, tensors, _ = model()
    width, ff = keys["qwen3moe.embedding_length"], keys["qwen3moe.expert_feed_forward_length"]
    shape = [ff, width, 8] if part == "down" else [width, ff, 8]
    assert tensors[f"blk.0.ffn_{part}_exps.weight"].shape.tolist() == shape


def test_every_expert_is_used() -> None:
    """The choice is balanced: in no layer is an expert idle over a short story, and none is half of all choices."""
    session = graphsched.load()
    ids = session.tokenizer.encode(STORY)
    n, positions = len(ids), np.arange(len(ids))
    zeros = np.zeros_like(positions)
    feed = {"tokens": ids, "pos": positions, "cells": positions, "out_ids": positions}
    feed |= {"where": np.stack([zeros, positions, zeros], 1), "table": np.arange(blocks_of(n))}
    graph = session.model.graph(n, n, n, session.options)
    runtime = open_runtime("reference", Setup(session.model.weights))
    for leaf in graph.leaves:
        if leaf.kind == "input":
            runtime.input(leaf)[:] = feed[leaf.name.removeprefix("inp_")]
    choices = [node for node in graph.nodes if graph.labels[node] == "ffn_moe_topk"]
    executable = runtime.compile(from_outputs(*choices))
    executable.run({"n_tokens": n, "n_outputs": n, "n_kv": n})
    for chosen in executable.outputs:
        counts = np.bincount(chosen.reshape(-1), minlength=8)
        assert counts.min() > 0
        assert counts.max() < chosen.size / 2


def test_weights_are_finite() -> None:
    for tensor in model()[1].values():
        assert np.isfinite(quants.dequantize(tensor.data, tensor.tensor_type)).all()
