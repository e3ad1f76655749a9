"""Synthetic models: real shapes and keys with made-up weights, to plan and to measure without a download."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Final, Literal

import numpy as np

from graphsched.errors import OptionError
from graphsched.gguf.atomic import check_target, replacing
from graphsched.gguf.format import MetaValue, printable
from graphsched.gguf.write import aligned, encode_header
from graphsched.graph.tensor import layer_of
from graphsched.synth.layout import Layout
from graphsched.synth.layouts import LAYOUTS
from graphsched.synth.types import FILE_TYPES, type_for, type_name
from graphsched.synth.weights import check_encodable, chunks
from graphsched.types.shapes import TensorType

Progress = Callable[[int, int], None]
Extent = Literal["whole", "sparse", "header"]

_FIRST_TOKENS: Final = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁")


def names() -> list[str]:
    """Names of the models that can be made."""
    return list(LAYOUTS)


def header(
    layout: str, type: str = "", layers: int = 0
) -> tuple[dict[str, MetaValue], dict[str, TensorType]]:
    """Metadata without tokenizer, and the types of all tensors; `type` is for matrices, "" the layout's own.

    layers: the first so many; 0 is all.
    """
    found = _layout(layout)
    found = found.cut(layers) if layers else found
    type = type_name(type or found.type)
    metadata: dict[str, MetaValue] = {
        "general.architecture": found.arch,
        "general.name": f"{found.title} (synthetic, {type})",
        "general.quantization_version": 2,
        **{f"{found.arch}.{key}": value for key, value in found.keys.items()},
    }
    if type in FILE_TYPES:
        metadata["general.file_type"] = FILE_TYPES[type]
    n = found.keys["block_count"]
    return metadata, {name: TensorType(type_for(name, s, type, n), s) for name, s in found.shapes()}


def vocabulary(n: int) -> dict[str, MetaValue]:
    """Keys of a tokenizer with n tokens: bytes, a space and filler words."""
    fillers = (f"▁{_word(i)}" for i in range(n - len(_FIRST_TOKENS)))
    kinds = np.ones(n, np.int32)
    kinds[:3], kinds[3:259] = (2, 3, 3), 6
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": (*_FIRST_TOKENS, *fillers),
        "tokenizer.ggml.scores": -np.arange(n, dtype=np.float32),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def write(
    layout: str,
    out: Path,
    type: str = "",
    *,
    layers: int = 0,
    extent: Extent = "whole",
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> None:
    """Writes a model file: all of it, with a hole for the data, or cut after the header. layers: as in `header`."""
    metadata, types = header(layout, type, layers)
    if extent == "whole":
        for t in types.values():
            check_encodable(t.dtype)
    n_vocab = types["token_embd.weight"].shape[0]
    head = encode_header(metadata | vocabulary(n_vocab), types)
    size = len(head) + sum(aligned(t.nbytes) for t in types.values())
    check_target(out, size if extent == "whole" else len(head), ", --sparse takes none")
    if out.exists() and not force:
        raise OptionError(f"{printable(str(out))}: exists, --force replaces it")
    with replacing(out) as file:
        file.write(head)
        if extent == "whole":
            _write_data(file, types, progress)
        elif extent == "sparse":
            file.truncate(size)


def _write_data(file: BinaryIO, types: Mapping[str, TensorType], progress: Progress) -> None:
    total, done = sum(t.nbytes for t in types.values()), 0
    progress(0, total)
    n_layer = 1 + max(map(layer_of, types))
    for name, type in types.items():
        for chunk in chunks(name, type, n_layer, is_tied="output.weight" not in types):
            file.write(chunk.data)
            done += chunk.nbytes
            progress(done, total)
        file.write(bytes(aligned(type.nbytes) - type.nbytes))


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise OptionError(f"no layout {printable(name) or 'is named'}; there are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _word(i: int) -> str:
    """The i-th word over the letters: a, b, …, z, aa, ab, …"""
    letters = ""
    while i >= 0:
        letters, i = chr(ord("a") + i % 26) + letters, i // 26 - 1
    return letters
