"""A checkpoint to a GGUF file: what there is, which type each tensor gets, written tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphsched.convert import recipes
from graphsched.convert.checkpoint import Checkpoint, Safetensors
from graphsched.convert.config import HfConfig, metadata, read_json
from graphsched.convert.names import FAMILIES, Family, of_architecture
from graphsched.convert.recipes import Recipe
from graphsched.convert.torch_file import TorchFile
from graphsched.convert.vocab import tokenizer
from graphsched.errors import LoadError, OptionError
from graphsched.gguf.atomic import check_target, replacing
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.write import aligned, encode_header
from graphsched.quantize import mixes
from graphsched.text.chat_templates import template_for
from graphsched.types import dtypes
from graphsched.types.dtypes import DType
from graphsched.types.shapes import TensorType

OUT_TYPES: Final = ("auto", "f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0", "iq1_bn", "iq2_bn", "i2_s")
_TERNARY: Final = OUT_TYPES[5:]
_GPU_FILES: Final = ("model_state_int2.pt", "model_state_fp16.pt")


@dataclass(frozen=True)
class Conversion:
    """Everything that is written: keys, and recipes by the type that their tensors get."""

    keys: Mapping[str, MetaValue]
    tensors: Mapping[str, tuple[Recipe, DType]]


def plan(path: Path, out_type: str = "auto", pre: str | None = None) -> Conversion:
    """Reads a checkpoint's config, tokenizer and tensor list. LoadError for what is missing or unknown."""
    folder = path if path.is_dir() else path.parent
    source, config, family = _opened(path, folder)
    found = tuple(_checked(_recipes(source, config, family), config, source.where))
    base = _base(out_type, source)
    keys: dict[str, MetaValue] = {
        "general.architecture": family.arch,
        "general.type": "model",
        "general.name": printable(folder.resolve().name),
        "general.quantization_version": 2,
        "general.file_type": mixes.MIXES[base.name].file_type,
    }
    keys |= metadata(config, family) | tokenizer(folder, config.count("vocab_size"), pre)
    given = keys.get("tokenizer.chat_template")
    if template := template_for(family.arch, given if isinstance(given, str) else None):
        keys["tokenizer.chat_template"] = template
    return Conversion(keys, {r.name: (r, _type_for(r, base)) for r in found})


def write(
    conversion: Conversion,
    out: Path,
    *,
    begin: Callable[[Recipe, DType], None] = lambda recipe, dtype: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes OUT, which appears when it is whole."""
    types = {name: TensorType(dtype, r.shape) for name, (r, dtype) in conversion.tensors.items()}
    head = encode_header(conversion.keys, types)
    check_target(out, len(head) + sum(aligned(t.nbytes) for t in types.values()))
    total, done = sum(t.numel for t in types.values()), 0
    with replacing(out) as file:
        file.write(head)
        for recipe, dtype in conversion.tensors.values():
            begin(recipe, dtype)
            size = 0
            for data in _data(recipe, dtype):
                file.write(data.data)
                size += data.nbytes
            file.write(bytes(aligned(size) - size))
            done += types[recipe.name].numel
            progress(done, total)


def _opened(path: Path, folder: Path) -> tuple[Checkpoint, HfConfig, Family]:
    config = folder / "config.json"
    if path.is_dir():
        gpu = next((path / name for name in _GPU_FILES if (path / name).exists()), None)
    elif path.suffix == ".pt" or not path.exists():
        gpu = path
    else:
        raise LoadError(f"{printable(str(path))}: is neither a folder nor a .pt file")
    if gpu is not None:
        source = TorchFile(gpu)
        beside = HfConfig(read_json(config), config.name) if config.exists() else None
        return source, recipes.gpu_config(source, beside), FAMILIES["BitNetForCausalLM"]
    hf = HfConfig(read_json(config), config.name)
    family = of_architecture(hf.values.get("architectures"), config.name)
    if not any(path.glob("*.safetensors")):
        raise LoadError(f"{printable(str(path))}: there are no safetensors files")
    return Safetensors(path), hf, family


def _recipes(source: Checkpoint, config: HfConfig, family: Family) -> Iterator[Recipe]:
    if isinstance(source, TorchFile):
        return recipes.from_gpu(source, config)
    return recipes.from_hugging_face(source, config, family)


def _checked(found: Iterator[Recipe], config: HfConfig, where: str) -> Iterator[Recipe]:
    """The recipes in a file's order, with shapes that a GGUF file can have, and none missing that all models have."""
    by_name = {r.name: r for r in found}
    layers = config.count("num_hidden_layers")
    norms = (f"blk.{i}.attn_norm.weight" for i in range(layers))
    for name in chain(("token_embd.weight", "output_norm.weight"), norms):
        if name not in by_name:
            raise LoadError(f"{where}: there is nothing that becomes {name}")
    if by_name["token_embd.weight"].shape != (config.count("vocab_size"), config.count("hidden_size")):
        raise LoadError(
            f"{where}: the embedding is {list(by_name['token_embd.weight'].shape)}, unlike config.json"
        )
    for r in by_name.values():
        if not 1 <= len(r.shape) <= 3 or 0 in r.shape:
            raise LoadError(f"{where}: {shown(r.name)} would have the shape {list(r.shape)}")
        if r.name.startswith("blk.") and int(r.name.split(".")[1]) >= layers:
            raise LoadError(f"{where}: {shown(r.name)} is behind the last of {layers} layers")
    return iter(by_name.values())


def _base(out_type: str, source: Checkpoint) -> DType:
    """The type of matrices; auto keeps BF16 and F32 and makes F16 of all else."""
    if out_type not in OUT_TYPES:
        raise OptionError(f"--outtype {printable(out_type)}: there are {', '.join(OUT_TYPES)}")
    if out_type != "auto":
        return dtypes.by_name(out_type)
    kinds = {source.kind(name) for name, shape in source.shapes.items() if len(shape) == 2}
    floats = kinds & {"BF16", "F16", "F32"}
    return dtypes.by_name(floats.pop() if len(floats) == 1 else "F16")


def _type_for(recipe: Recipe, base: DType) -> DType:
    if not mixes.is_quantised(recipe.name, recipe.shape):
        return dtypes.F32
    if base.name.lower() in _TERNARY and not recipe.name.startswith("blk."):
        return dtypes.F16
    return mixes.fitting(base, recipe.shape[-1])


def _data(recipe: Recipe, dtype: DType) -> Iterator[NDArray[np.uint8]]:
    """The tensor's bytes, matrix by matrix."""
    tails = []
    for make in recipe.parts:
        w = make()
        step = recipes.rows_at_once(w.shape)
        for first in range(0, len(w), step):
            if not np.isfinite(w[first : first + step]).all():
                raise LoadError(f"{shown(recipe.name)}: has weights that are not finite")
            raw = dtype.quantize(w[first : first + step])
            tails.append(raw[raw.size - dtype.tail :].copy())  # a view would keep all of it
            yield raw[: raw.size - dtype.tail]
    if dtype.tail:
        yield np.stack(tails).view("<f4").max(axis=0).view(np.uint8)
