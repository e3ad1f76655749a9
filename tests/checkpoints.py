"""Small checkpoints as other programs write them, and what they compute, in numpy."""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.convert.ternary import rounded_to_bf16
from graphsched.text.bpe import BYTE_CHARACTERS

Floats = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = ["h e", "l l", "he ll", "Ġ w", "hell o"]
N_VOCAB = 272


def bf16(x: Floats) -> NDArray[np.uint16]:
    """The bits of values that BF16 holds."""
    return (rounded_to_bf16(x).view(np.uint32) >> 16).astype(np.uint16)


def tokenizer_json(**model: Any) -> dict[str, Any]:
    """Byte-level BPE with Llama 3's expression: bytes, five merges and four special tokens."""
    words = [*BYTE_CHARACTERS, *(m.replace(" ", "") for m in MERGES)]
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    return {
        "added_tokens": [
            {"id": len(words) + i, "content": text, "special": True} for i, text in enumerate(special)
        ],
        "model": {
            "type": "BPE",
            "ignore_merges": True,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": MERGES,
            **model,
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated"},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        },
    }


def write_tokenizer(folder: Path) -> None:
    config = {
        "bos_token": "<|begin_of_text|>",
        "eos_token": {"content": "<|eot_id|>"},
        "add_bos_token": True,
        "chat_template": "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """uint16 arrays are written as BF16."""
    kinds = {"float32": "F32", "float16": "F16", "uint16": "BF16", "uint8": "U8", "int8": "I8"}
    header, at = {}, 0
    for name, array in tensors.items():
        header[name] = {
            "dtype": kinds[str(array.dtype)],
            "shape": array.shape,
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in tensors.values()))


def write_hugging_face(folder: Path, config: Mapping[str, Any], tensors: Arrays, parts: int = 1) -> Path:
    """A folder of a model, its tensors in one file or several."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    if parts == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    index = {name: f"model-{i % parts}.safetensors" for i, name in enumerate(tensors)}
    for file in set(index.values()):
        write_safetensors(folder / file, {n: a for n, a in tensors.items() if index[n] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def write_torch(path: Path, tensors: Arrays, pickled: bytes | None = None, compression: int = 0) -> Path:
    """What torch.save makes of a state dict, its pickle put together by hand."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("state/data.pkl", state_pickle(tensors) if pickled is None else pickled)
        for i, array in enumerate(tensors.values()):
            file.writestr(f"state/data/{i}", array.tobytes())
    return path


def state_pickle(tensors: Arrays) -> bytes:
    storages = {"float32": "FloatStorage", "uint16": "BFloat16Storage", "int8": "CharStorage"}
    body = b"\x80\x02" + _global("collections", "OrderedDict") + b")R("
    for i, (name, array) in enumerate(tensors.items()):
        strides = tuple(s // array.itemsize for s in array.strides)
        storage = b"(" + _value("storage") + _global("torch", storages[str(array.dtype)])
        storage += _value(str(i)) + _value("cpu") + _value(array.size) + b"tQ"
        rest = (
            _value(0)
            + _value(array.shape)
            + _value(strides)
            + b"\x89"
            + _global("collections", "OrderedDict")
            + b")R"
        )
        body += _value(name) + _global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"tR"
    return body + b"u."


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _value(value: Any) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


# --- what a model computes ---


def norm(x: Floats, w: Floats, eps: float) -> Floats:
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * w


def rotated(x: Floats, theta: float) -> Floats:
    """Hugging Face's rotation: [T, heads, d], element j with j + d/2."""
    d = x.shape[-1]
    angle = np.arange(len(x))[:, None, None] * theta ** (-np.arange(0, d, 2) / d)
    cos, sin = np.cos(angle), np.sin(angle)
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-x))


def forward(c: Mapping[str, Any], w: Mapping[str, Floats], ids: list[int]) -> Floats:
    """Logits [T, V] in float64, as the architectures' papers have it; names and order are Hugging Face's."""
    w = {name: a.astype(np.float64) for name, a in w.items()}
    x, eps = w["model.embed_tokens.weight"][ids], c["rms_norm_eps"]
    for i in range(c["num_hidden_layers"]):
        blk = {
            n.removeprefix(f"model.layers.{i}."): a
            for n, a in w.items()
            if n.startswith(f"model.layers.{i}.")
        }
        x = x + attention(c, blk, norm(x, blk["input_layernorm.weight"], eps))
        x = x + feed_forward(c, blk, norm(x, blk["post_attention_layernorm.weight"], eps))
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, w["model.norm.weight"], eps) @ head.T


def attention(c: Mapping[str, Any], blk: Mapping[str, Floats], x: Floats) -> Floats:
    heads, kv, eps = c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"]
    q, k, v = (
        x @ blk[f"self_attn.{n}_proj.weight"].T + blk.get(f"self_attn.{n}_proj.bias", 0)
        for n in ("q", "k", "v")
    )
    q, k, v = (a.reshape(len(x), n, -1) for a, n in ((q, heads), (k, kv), (v, kv)))
    if "self_attn.q_norm.weight" in blk:
        q, k = norm(q, blk["self_attn.q_norm.weight"], eps), norm(k, blk["self_attn.k_norm.weight"], eps)
    q, k = rotated(q, c["rope_theta"]), rotated(k, c["rope_theta"])
    k, v = np.repeat(k, heads // kv, axis=1), np.repeat(v, heads // kv, axis=1)
    score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    score += np.triu(np.full(score.shape[1:], -np.inf), 1)
    p = np.exp(score - score.max(axis=-1, keepdims=True))
    out = np.einsum("hqk,khd->qhd", p / p.sum(axis=-1, keepdims=True), v).reshape(len(x), -1)
    if "self_attn.attn_sub_norm.weight" in blk:
        out = norm(out, blk["self_attn.attn_sub_norm.weight"], eps)
    return out @ blk["self_attn.o_proj.weight"].T


def feed_forward(c: Mapping[str, Any], blk: Mapping[str, Floats], x: Floats) -> Floats:
    if "mlp.gate.weight" in blk:
        return moe(c, blk, x)
    return expert(c, {n.removeprefix("mlp."): a for n, a in blk.items()}, x)


def expert(c: Mapping[str, Any], w: Mapping[str, Floats], x: Floats) -> Floats:
    gate, up = x @ w["gate_proj.weight"].T, x @ w["up_proj.weight"].T
    h = (np.maximum(gate, 0) ** 2 if c["hidden_act"] == "relu2" else silu(gate)) * up
    if "ffn_sub_norm.weight" in w:
        h = norm(h, w["ffn_sub_norm.weight"], c["rms_norm_eps"])
    return h @ w["down_proj.weight"].T


def moe(c: Mapping[str, Any], blk: Mapping[str, Floats], x: Floats) -> Floats:
    score = x @ blk["mlp.gate.weight"].T
    p = np.exp(score - score.max(axis=-1, keepdims=True))
    p, out = p / p.sum(axis=-1, keepdims=True), np.zeros_like(x)
    for t, row in enumerate(p):
        best = np.argsort(-row)[: c["num_experts_per_tok"]]
        for e in best:
            prefix = f"mlp.experts.{e}."
            own = {n.removeprefix(prefix): a for n, a in blk.items() if n.startswith(prefix)}
            out[t] += row[e] / row[best].sum() * expert(c, own, x[t : t + 1])[0]
    return out
