"""Microsoft's checkpoints of BitNet for GPUs: packed tiles or plain weights, fused matrices, often no config."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

import numpy as np

from graphsched.convert import ternary
from graphsched.convert.checkpoint import Checkpoint, values
from graphsched.convert.config import HfConfig
from graphsched.convert.floats import Floats
from graphsched.convert.recipes import Recipe, is_same, pieces, unpermute_rows
from graphsched.errors import LoadError


def gpu_config(source: Checkpoint, beside: HfConfig | None) -> HfConfig:
    """The shape of the model: as config.json beside the file says, or 2B-4T's conventions (heads of 128)."""
    if beside is not None:
        return beside
    vocab, width = _matrix(source, "tok_embeddings.weight")
    layers = 1 + max((int(n.split(".")[1]) for n in source.shapes if n.startswith("layers.")), default=-1)
    rows, inner = (_matrix(source, f"layers.0.{n}.weight")[0] for n in ("attention.wqkv", "feed_forward.w13"))
    found = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "intermediate_size": inner // 2,
        "num_attention_heads": width // 128,
        "num_key_value_heads": (rows - width) // 256,
        "vocab_size": vocab,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
    }
    return HfConfig(found, source.where)


def _matrix(source: Checkpoint, name: str) -> tuple[int, int]:
    """Rows and columns; of packed weights a byte is four columns."""
    if len(source.shapes.get(name, ())) != 2:
        raise LoadError(f"{source.where}: there is no matrix {name}")
    n, k = source.shapes[name]
    return (n, 4 * k) if source.kind(name) == "I8" else (n, k)


def from_gpu(source: Checkpoint, config: HfConfig) -> Iterator[Recipe]:
    """The recipes of model_state_int2.pt (packed tiles) or model_state_fp16.pt."""
    d, heads = config.head_dim, config.count("num_attention_heads")
    kv = config.count("num_key_value_heads", heads)
    inner = config.count("intermediate_size")
    yield _plain(source, "tok_embeddings.weight", "token_embd.weight")
    for i in range(config.count("num_hidden_layers")):
        for theirs, ours in _GPU_NORMS.items():
            yield _plain(source, f"layers.{i}.{theirs}.weight", f"blk.{i}.{ours}.weight")
        cuts = {
            "attention.wqkv": (("attn_q", heads * d), ("attn_k", kv * d), ("attn_v", kv * d)),
            "attention.wo": (("attn_output", config.count("hidden_size")),),
            "feed_forward.w13": (("ffn_gate", inner), ("ffn_up", inner)),
            "feed_forward.w2": (("ffn_down", config.count("hidden_size")),),
        }
        for theirs, parts in cuts.items():
            name = f"layers.{i}.{theirs}.weight"
            yield from _rows(source, name, [(f"blk.{i}.{part}.weight", n) for part, n in parts], (heads, kv))
    yield _plain(source, "norm.weight", "output_norm.weight")
    if "output.weight" in source.shapes and not is_same(source, "output.weight", "tok_embeddings.weight"):
        yield _plain(source, "output.weight", "output.weight")


_GPU_NORMS: Final = {
    "attention_norm": "attn_norm",
    "attention.attn_sub_norm": "attn_sub_norm",
    "ffn_norm": "ffn_norm",
    "feed_forward.ffn_sub_norm": "ffn_sub_norm",
}


def _plain(source: Checkpoint, name: str, gguf: str) -> Recipe:
    if name not in source.shapes:
        raise LoadError(f"{source.where}: missing tensor {name}")
    return Recipe(gguf, source.shapes[name], tuple(pieces(source, name)))


def _rows(
    source: Checkpoint, name: str, parts: Iterable[tuple[str, int]], heads: tuple[int, int]
) -> Iterator[Recipe]:
    """Matrices that lie below each other in one; scales by explicit rows, one for each."""
    rows, columns = _matrix(source, name)
    parts = list(parts)
    is_packed = source.kind(name) == "I8"
    if sum(n for _, n in parts) != rows or (is_packed and (rows % 16 or columns % 32)):
        raise LoadError(
            f"{source.where}: tensor {name} has {rows} rows of {columns}, which do not fit the model"
        )
    start = 0
    for i, (gguf, n) in enumerate(parts):
        n_heads = {"attn_q": heads[0], "attn_k": heads[1]}.get(gguf.split(".")[-2], 0)
        yield Recipe(gguf, (n, columns), (partial(_cut, source, name, i, (start, n), n_heads),))
        start += n


def _cut(source: Checkpoint, name: str, i: int, rows: tuple[int, int], heads: int) -> Floats:
    """Some rows; queries and keys lie in the order of neighbours and get that of halves, as `bitnet` rotates them."""
    start, n = rows
    if source.kind(name) == "I8":
        scales = values(source, f"{name}_scale") if f"{name}_scale" in source.shapes else np.zeros(0)
        if scales.size <= i or not np.isfinite(scales).all():
            raise LoadError(f"{source.where}: tensor {name} is packed but has no scale")
        w = (
            ternary.unpack_tiles(source.stored(name))[start : start + n].astype(np.float32)
            * scales.reshape(-1)[i]
        )
    else:
        w = ternary.absmean(values(source, name)[start : start + n])
    return unpermute_rows(w, heads) if heads else w
