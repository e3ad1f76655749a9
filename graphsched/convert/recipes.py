"""How each tensor of a GGUF file is made from those of a checkpoint."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.convert import names, ternary
from graphsched.convert.checkpoint import Checkpoint, values
from graphsched.convert.config import HfConfig, rope_factors
from graphsched.convert.floats import PLAIN
from graphsched.convert.names import Family
from graphsched.errors import LoadError
from graphsched.gguf.format import shown

Floats = NDArray[np.float32]
_AT_ONCE: Final = 1 << 22  # weights


@dataclass(frozen=True)
class Recipe:
    """How to make a GGUF tensor: name, shape, and a function per piece, called when the piece is written."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Callable[[], Floats], ...]


def permute_rows(w: Floats, heads: int) -> Floats:
    """Rows [heads · d, ...] from Hugging Face's order to llama's, whose rotation takes neighbours, not halves."""
    return w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute_rows(w: Floats, heads: int) -> Floats:
    """The inverse of `permute_rows`."""
    return w.reshape(heads, -1, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def from_hugging_face(source: Checkpoint, config: HfConfig, family: Family) -> Iterator[Recipe]:
    """The recipes of a Hugging Face checkpoint; an unknown tensor is an error."""
    experts: dict[str, dict[int, str]] = {}
    is_tied = config.values.get("tie_word_embeddings") is True
    for name in source.shapes:
        if names.is_ignored(name, family):
            continue
        _check_kind(source, family, name)
        if fused := names.fused_names(name):
            yield from _fused(source, config, name, fused)
            continue
        if (found := names.gguf_name(name, family)) is None:
            raise LoadError(f"{source.where}: tensor {shown(name)} has no place in a {family.arch} model")
        if not (is_tied and found[0] == "output.weight"):
            experts.setdefault(found[0], {})[found[1]] = name
    # Without the matrix a file would be read as tied, and answer with the embedding.
    if config.values.get("tie_word_embeddings") is False and "output.weight" not in experts:
        raise LoadError(f"{source.where}: there is no lm_head.weight, and tie_word_embeddings is false")
    for gguf, parts in experts.items():
        yield _recipe(source, config, family, gguf, parts)
    if (factors := rope_factors(config)) is not None:
        yield Recipe("rope_freqs.weight", factors.shape, (lambda: factors,))


def tied_notes(source: Checkpoint, config: HfConfig) -> list[str]:
    """A sentence about an output matrix that is left out because the config ties it to an embedding that differs."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    is_tied = config.values.get("tie_word_embeddings") is True and all(n in source.shapes for n in names)
    if not is_tied or any(source.kind(n) not in PLAIN for n in names) or is_same(source, *names):
        return []
    return [f"{source.where}: lm_head.weight is left out, as tie_word_embeddings is true, though it differs"]


def _check_kind(source: Checkpoint, family: Family, name: str) -> None:
    """Integers are weights only with a scale, which is resolved before, or packed in a ternary model."""
    kind = source.kind(name)
    if kind not in PLAIN and not (family.is_ternary and kind == "U8"):
        raise LoadError(f"{source.where}: tensor {shown(name)} is {kind}, and nothing says how it is scaled")


def _fused(source: Checkpoint, config: HfConfig, name: str, ggufs: tuple[str, ...]) -> Iterator[Recipe]:
    """The tensors in one of all experts [experts, rows, columns]: the parts lie below each other in each expert."""
    shape, inner = source.shapes[name], config.expert_width
    rows, columns = config.count("hidden_size"), inner
    if len(ggufs) > 1:
        rows, columns = inner, rows
    if shape[1:] != (rows * len(ggufs), columns):
        need = f"[experts, {rows * len(ggufs)}, {columns}] is needed"
        raise LoadError(f"{source.where}: tensor {shown(name)} has the shape {list(shape)}, {need}")
    for i, gguf in enumerate(ggufs):
        cut = slice(i * rows, (i + 1) * rows)
        parts = tuple(partial(_expert, source, name, e, cut) for e in range(shape[0]))
        yield Recipe(gguf, (shape[0], rows, columns), parts)


def _expert(source: Checkpoint, name: str, i: int, rows: slice) -> Floats:
    return values(source, name, i, i + 1)[0, rows]


def _recipe(source: Checkpoint, config: HfConfig, family: Family, gguf: str, parts: dict[int, str]) -> Recipe:
    if sorted(parts) != list(range(len(parts))):
        raise LoadError(f"{source.where}: {gguf} has experts {sorted(parts)[:8]}, one is missing")
    ordered = [parts[i] for i in range(len(parts))]
    shapes = {_shape(source, name) for name in ordered}
    if len(shapes) > 1:
        raise LoadError(f"{source.where}: the experts of {gguf} have different shapes")
    (shape,) = shapes
    is_ternary = family.is_ternary and gguf.startswith("blk.") and len(shape) == 2
    heads = _heads(config, gguf) if family.is_permuted else 0
    if heads and shape[0] % (2 * heads):
        raise LoadError(f"{source.where}: tensor {shown(ordered[0])} has {shape[0]} rows for {heads} heads")
    make: list[Callable[[], Floats]]
    if is_ternary or heads:
        make = [partial(_made, source, config, name, is_ternary, heads) for name in ordered]
    else:
        make = [piece for name in ordered for piece in pieces(source, name)]
    part = gguf.split(".", 2)[-1]
    whole = family.made.get(part)
    if whole or gguf.endswith(names.VECTORS) or (shape[1:2] == (1,) and len(shape) == 3):
        shape = tuple(n for n in shape if n != 1)
        make = [partial(_whole, source, config, ordered[0], whole, shape)]
    if family.adds_one and gguf.endswith("norm.weight") and part not in family.keeps_one:
        make = [partial(_one_more, piece) for piece in make]
    return Recipe(gguf, (len(parts), *shape) if "_exps." in gguf else shape, tuple(make))


def _whole(
    source: Checkpoint, config: HfConfig, name: str, make: names.Make | None, shape: tuple[int, ...]
) -> Floats:
    """A tensor in one piece, without axes of one; `make`: what a family makes of it."""
    w = values(source, name)
    return (make(config, w) if make else w).reshape(shape)


def _one_more(piece: Callable[[], Floats]) -> Floats:
    """Of norms whose checkpoints have what is added to one."""
    return piece() + np.float32(1)


def _shape(source: Checkpoint, name: str) -> tuple[int, ...]:
    """The shape of the weights; packed ones have four rows in one."""
    shape = source.shapes[name]
    is_packed = source.kind(name) == "U8" and len(shape) == 2
    return (4 * shape[0], shape[1]) if is_packed else shape


def _heads(config: HfConfig, gguf: str) -> int:
    """The heads whose rows are permuted, 0 for all but queries and keys."""
    n = config.count("num_attention_heads")
    part = gguf.split(".")[-2]
    return {"attn_q": n, "attn_k": config.count("num_key_value_heads", n)}.get(part, 0)


def _made(source: Checkpoint, config: HfConfig, name: str, is_ternary: bool, heads: int) -> Floats:
    w = _ternary(source, config, name) if is_ternary else values(source, name)
    return permute_rows(w, heads) if heads else w


def _ternary(source: Checkpoint, config: HfConfig, name: str) -> Floats:
    """A matrix of BitNet: packed or plain with a scale beside it, or a master weight.

    The scale multiplies in the class that the 2B-4T checkpoint names (autobitlinear) and divides in the older one.
    """
    kind = source.kind(name)
    w = ternary.unpack_rows(source.stored(name)).astype(np.float32) if kind == "U8" else values(source, name)
    beside = f"{name}_scale"
    if beside not in source.shapes:
        if kind == "U8":
            raise LoadError(f"{source.where}: tensor {shown(name)} is packed but has no {shown(beside)}")
        return ternary.absmean(w)
    scale = values(source, beside)
    if scale.size != 1 or not np.isfinite(scale).all() or not scale.all():
        raise LoadError(f"{source.where}: tensor {shown(beside)} is not a scale")
    multiplies = config.nested("quantization_config").values.get("linear_class") == "autobitlinear"
    factor = scale.reshape(-1)[0]
    return w * (factor if multiplies else np.float32(1) / factor)


def pieces(source: Checkpoint, name: str) -> Iterator[Callable[[], Floats]]:
    """A tensor's rows, some at a time: an embedding is by far the largest tensor of most models."""
    shape = source.shapes[name]
    step = rows_at_once(shape)
    for first in range(0, shape[0] if shape else 1, step):
        yield partial(values, source, name, first, first + step)


def rows_at_once(shape: tuple[int, ...]) -> int:
    """How many rows are held in float32 and written together."""
    return max(1, _AT_ONCE // max(1, math.prod(shape[1:])))


def is_same(source: Checkpoint, a: str, b: str) -> bool:
    """Whether two tensors hold the same, one after the other in memory."""
    if (source.shapes[a], source.kind(a)) != (source.shapes[b], source.kind(b)):
        return False
    return _digest(source.stored(a)[:]) == _digest(source.stored(b)[:])


def _digest(array: NDArray[np.generic]) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest()
