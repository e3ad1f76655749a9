"""Converts a checkpoint to GGUF: reads what it holds and chooses types, then writes tensor by tensor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

from graphsched.convert import gpu, recipes
from graphsched.convert.checkpoint import Checkpoint, OfText, open_checkpoint
from graphsched.convert.config import HfConfig, check_plain, metadata, read_json
from graphsched.convert.families import FAMILIES, of_architecture
from graphsched.convert.files import weight_files
from graphsched.convert.names import Family
from graphsched.convert.quantized import Scheme, scheme_of
from graphsched.convert.recipes import Recipe
from graphsched.convert.scaled import Scaled
from graphsched.convert.torch_file import TorchFile
from graphsched.convert.verify import check_runs
from graphsched.convert.vocab import read_tokenizer
from graphsched.errors import LoadError, OptionError
from graphsched.gguf.format import MetaValue, printable, shown
from graphsched.gguf.given import named
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
    """Everything that is written: keys, and recipes by the type that their tensors get.

    `notes` are sentences about what of the checkpoint is left out.
    """

    keys: Mapping[str, MetaValue]
    tensors: Mapping[str, tuple[Recipe, DType]]
    notes: tuple[str, ...] = ()

    @property
    def types(self) -> dict[str, TensorType]:
        """Type and shape of every tensor that is written."""
        return {name: TensorType(dtype, r.shape) for name, (r, dtype) in self.tensors.items()}


def plan(
    path: Path, out_type: str = "auto", pre: str | None = None, *, vocab_only: bool = False
) -> Conversion:
    """Reads a checkpoint's config, tokenizer and tensor list; with `vocab_only` no tensor is converted.

    LoadError for what is missing or unknown, and for a file that `run` would refuse.
    """
    folder = path if path.is_dir() else path.parent
    opened = _opened(path, folder)
    source, config, family = opened.source, opened.config, opened.family
    notes = (*opened.notes, *check_plain(config, family))
    found = tuple(_checked(opened.recipes(), config, source.where))
    base = _base(out_type, source)
    keys: dict[str, MetaValue] = {
        "general.architecture": family.arch,
        "general.type": "model",
        "general.name": _name(folder.resolve()),
        "general.quantization_version": 2,
        "general.file_type": mixes.MIXES[base.name].file_type,
    }
    words = read_tokenizer(folder, config.count("vocab_size"), pre)
    keys |= metadata(config, family) | words.keys
    given = keys.get("tokenizer.chat_template")
    if template := template_for(family.arch, given if isinstance(given, str) else None):
        keys["tokenizer.chat_template"] = template
    conversion = Conversion(keys, {r.name: (r, _type_for(r, base)) for r in found}, (*notes, *words.notes))
    check_runs(keys, conversion.types, source.where)
    return replace(conversion, tensors={}) if vocab_only else conversion


def _name(folder: Path) -> str:
    """The folder's name; in the cache of Hugging Face that is a commit's, and the model's is further up."""
    model = folder.parent.parent.name
    if folder.parent.name == "snapshots" and model.startswith("models--"):
        return printable(model.rpartition("--")[2])
    return printable(folder.name)


@dataclass(frozen=True)
class _Opened:
    """A checkpoint, the model that it is of, and how its tensors are made."""

    source: Checkpoint
    config: HfConfig
    family: Family
    recipes: Callable[[], Iterator[Recipe]]
    notes: tuple[str, ...] = ()


def _opened(path: Path, folder: Path) -> _Opened:
    config = folder / "config.json"
    if path.is_dir():
        gpu_file = next((path / name for name in _GPU_FILES if (path / name).exists()), None)
    elif path.suffix == ".pt" or not path.exists():
        gpu_file = path
    else:
        raise LoadError(f"{printable(str(path))}: is neither a folder nor a .pt file")
    if gpu_file is None:
        return _hugging_face(path, HfConfig(read_json(config), config.name))
    source = TorchFile(gpu_file)
    beside = HfConfig(read_json(config), config.name) if config.exists() else None
    hf = gpu.gpu_config(source, beside)
    return _Opened(source, hf, FAMILIES["BitNetForCausalLM"], lambda: gpu.from_gpu(source, hf))


def _hugging_face(folder: Path, config: HfConfig) -> _Opened:
    family, config = of_architecture(config.values.get("architectures"), config.where), config.of_text
    scheme = scheme_of(config)
    files = weight_files(folder)
    source, ignored = open_checkpoint(folder, files), files.ignored
    notes = [f"{source.where}: {named(ignored)} is not read"] if ignored else []
    if family.has_towers:
        source = text = OfText(source)
        notes += [f"{text.where}: {named(text.left_out)} is left out, only text is read"] * bool(
            text.left_out
        )
    if scheme is not None and scheme.method == "bitnet":
        if not family.is_ternary:
            raise LoadError(
                f"{config.where}: quantization_config: {family.arch} models have no bitnet weights"
            )
    elif scheme is not None or not family.is_ternary:
        source = scaled = Scaled(source, scheme or Scheme("nothing"))
        if scaled.ignored:
            notes.append(
                f"{source.where}: {named(scaled.ignored)} is left out, activations are not quantised so"
            )
    notes += recipes.tied_notes(source, config)
    return _Opened(
        source, config, family, lambda: recipes.from_hugging_face(source, config, family), tuple(notes)
    )


def _checked(found: Iterator[Recipe], config: HfConfig, where: str) -> Iterator[Recipe]:
    """The recipes in a file's order, with shapes that a GGUF file can have, and none missing that all models have."""
    by_name = {r.name: r for r in found}
    layers = config.count("num_hidden_layers")
    there = {name.rsplit(".", 2)[0] for name in by_name}
    for name in chain(("token_embd",), (f"blk.{i}" for i in range(layers))):
        if name not in there and f"{name}.weight" not in by_name:
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
