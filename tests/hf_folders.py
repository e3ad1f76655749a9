"""Tiny Hugging Face folders, whole and plain, which tests change in one place each."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.text.bpe import BYTE_CHARACTERS

Floats = NDArray[np.float32]
Tensors = dict[str, Any]  # arrays, or (type of safetensors, array)
WIDTH, INNER, HEADS, KV, LAYERS, N_VOCAB = 64, 96, 4, 2, 2, 288
KINDS = {"float64": "F64", "float32": "F32", "float16": "F16", "uint8": "U8", "int8": "I8", "int32": "I32"}
WORDS = [*BYTE_CHARACTERS, "he", "ll", "hell", "hello"]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV,
    "max_position_embeddings": 128,
    "vocab_size": N_VOCAB,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def drawn(n_experts: int = 0, seed: int = 3) -> dict[str, Floats]:
    """A Llama's weights in float32, of Qwen3-MoE with experts."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Floats:
        return (rng.standard_normal(shape) * 0.08 + (len(shape) == 1)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": draw(N_VOCAB, WIDTH), "model.norm.weight": draw(WIDTH)}
    tensors["lm_head.weight"] = draw(N_VOCAB, WIDTH)
    for i in range(LAYERS):
        layer: dict[str, tuple[int, ...]] = {
            "input_layernorm": (WIDTH,),
            "post_attention_layernorm": (WIDTH,),
        }
        layer |= {"self_attn.q_proj": (WIDTH, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH)}
        layer |= {f"self_attn.{n}_proj": (WIDTH * KV // HEADS, WIDTH) for n in "kv"}
        if n_experts:
            layer |= {f"self_attn.{n}_norm": (WIDTH // HEADS,) for n in "qk"} | {
                "mlp.gate": (n_experts, WIDTH)
            }
        for prefix in [f"mlp.experts.{e}" for e in range(n_experts)] or ["mlp"]:
            layer |= {f"{prefix}.{n}_proj": (INNER, WIDTH) for n in ("gate", "up")}
            layer |= {f"{prefix}.down_proj": (WIDTH, INNER)}
        tensors |= {f"model.layers.{i}.{name}.weight": draw(*shape) for name, shape in layer.items()}
    return tensors


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    """Byte-level BPE as GPT-2 cuts it, four merges and four added tokens."""
    special = ["<|bos|>", "<|im_start|>", "<|im_end|>"]
    added = [{"id": len(WORDS) + i, "content": text, "special": True} for i, text in enumerate(special)]
    model: dict[str, Any] = {"type": "BPE", "vocab": {word: i for i, word in enumerate(WORDS)}}
    model |= {"merges": ["h e", "l l", "he ll", "hell o"], "byte_fallback": False}
    found: dict[str, Any] = {
        "added_tokens": [*added, {"id": len(WORDS) + 3, "content": "<think>", "special": False}]
    }
    return found | {"normalizer": None, "pre_tokenizer": BYTE_LEVEL, "model": model} | changes


def write_safetensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Arrays, or (type, array) where numpy has no such type."""
    header, data = {}, b""
    for name, given in tensors.items():
        kind, array = given if isinstance(given, tuple) else (KINDS[str(given.dtype)], given)
        end = len(data) + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), end]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def folder_of(
    folder: Path,
    tensors: Tensors | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    files: Mapping[str, Callable[[str], bool]] | None = None,
) -> Path:
    """A folder; `files` says which tensors each weight file gets, all in model.safetensors if it does not."""
    folder.mkdir(exist_ok=True)
    tensors = drawn() if tensors is None else tensors
    write_json(folder / "config.json", CONFIG | dict(config or {}))
    write_json(folder / "tokenizer.json", tokenizer_json(**(tokenizer or {})))
    names = {"bos_token": "<|bos|>", "eos_token": "<|im_end|>"}
    write_json(folder / "tokenizer_config.json", names)
    for name, takes in (files or {"model.safetensors": lambda name: True}).items():
        write_safetensors(folder / name, {n: t for n, t in tensors.items() if takes(n)})
    return folder
