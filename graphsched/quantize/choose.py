"""Chooses the type of each tensor: by the mix's rules, the user's, and what types its rows can have."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np

from graphsched.errors import Error, OptionError
from graphsched.gguf.format import printable, shown
from graphsched.gguf.given import Given
from graphsched.gguf.loader import ModelFile, TensorInfo
from graphsched.graph.tensor import layer_of
from graphsched.quantize import mixes
from graphsched.quantize.imatrix import Importance
from graphsched.quantize.mixes import ALIASES, GRIDS, MIXES, Mix, Place
from graphsched.schedule.pattern import compiled
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True)
class TypeRule:
    """The type of tensors whose names a pattern finds; `text` is the rule as it was given."""

    pattern: re.Pattern[str]
    dtype: DType
    text: str


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """What `quantize` is asked for; a mix of None copies every tensor."""

    mix: Mix | None
    token_embedding: DType | None = None
    output_tensor: DType | None = None
    custom: tuple[TypeRule, ...] = ()
    is_pure: bool = False
    allow_requantize: bool = False
    leave_output: bool = False
    is_arm: bool = False  # I2_S in the file has the layout that ARM programs write
    importance: Importance | None = None


@dataclass(frozen=True)
class Choice:
    """A tensor and the type it gets; `wanted` is another one if rows of that length cannot have it."""

    source: TensorInfo
    dtype: DType
    wanted: DType = field(compare=False)

    @property
    def is_copied(self) -> bool:
        """Whether the tensor keeps its type, and its bytes are copied."""
        return self.dtype is self.source.dtype


def parse_mix(text: str) -> Mix | None:
    """The mix by its name or file type number, None for COPY. OptionError for what cannot be quantised to."""
    name = ALIASES.get(text.upper(), text.upper())
    if name == "COPY":
        return None
    if name.isdecimal():
        name = next((m.name for m in MIXES.values() if m.file_type == int(name)), name)
    if name in GRIDS:
        raise OptionError(
            f"{name} is a grid type, which has no quantiser here; IQ4_XS and Q2_K are the smallest"
        )
    if name not in MIXES:
        known = (*MIXES, "COPY")
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise OptionError(f"no type {printable(text) or 'is named'} to quantise to; {hint}")
    return MIXES[name]


def is_mix(text: str) -> bool:
    """Whether a text is the name of something to quantise to, and not a number or a file's name."""
    try:
        return not text.isdecimal() and (parse_mix(text) is not None or text.upper() == "COPY")
    except OptionError:
        return False


def parse_type(flag: str, text: str) -> DType:
    """A tensor type that there is a quantiser for."""
    try:
        dtype = dtypes.by_name(text)
        dtype.quantize(np.zeros((dtype.interleave, dtype.block), np.float32))
    except Error as e:
        raise OptionError(f"{flag} {printable(text)}: {e}") from None
    return dtype


def parse_custom(flag: str, values: tuple[str, ...]) -> tuple[TypeRule, ...]:
    """regex=type,regex=type,... of all arguments, in their order; patterns do not tell capitals from small letters."""
    found = []
    for piece in (p.strip() for value in values for p in value.split(",")):
        pattern, equals, type = piece.rpartition("=")
        if not equals or not pattern:
            raise OptionError(
                f"{flag} {piece or 'with nothing'} needs a pattern and a type, as in ffn_down=q6_k"
            )
        rule = compiled(pattern, f"{flag} {piece}", re.IGNORECASE)
        found.append(TypeRule(rule, parse_type(flag, type), f"{flag} {piece}"))
    return tuple(found)


def rules_used(file: ModelFile, options: QuantizeOptions) -> tuple[Given, ...]:
    """What the user says about types, each with the number of tensors whose type it decides."""
    o, names = options, file.tensors
    chosen = [_rule_for(info, o) for info in names.values()]
    given = [Given(rule.text, sum(r is rule for r in chosen)) for rule in o.custom]
    if o.leave_output:
        given.append(Given("--leave-output-tensor", OUTPUT in names and o.mix is not None))
    if o.token_embedding is not None:
        given.append(Given("--token-embedding-type", o.mix is not None and EMBEDDING in names))
    if o.output_tensor is not None:
        given.append(
            Given("--output-tensor-type", o.mix is not None and not (o.leave_output and OUTPUT in names))
        )
    if o.is_arm:
        given.append(Given("--i2s-arm", sum(info.dtype.name == "I2_S" for info in names.values())))
    return tuple(given)


def choose(file: ModelFile, options: QuantizeOptions) -> tuple[Choice, ...]:
    """The type of each tensor, in the file's order. Error for one that would be quantised a second time."""
    places = _Places(file, options.importance is not None)
    choices = tuple(_choice(info, places, options) for info in file.tensors.values())
    for c in choices:
        if not (c.is_copied or options.allow_requantize or c.source.dtype.block == 1):
            raise OptionError(
                f"{printable(file.path.name)}: tensor {shown(c.source.name)} is already {c.source.dtype}; "
                "--allow-requantize takes it, which costs quality"
            )
    return choices


def _choice(info: TensorInfo, places: "_Places", options: QuantizeOptions) -> Choice:
    wanted = _wanted(info, places, options)
    if wanted is None:
        return Choice(info, info.dtype, info.dtype)
    n, rows = info.shape[-1], info.shape[-2]
    dtype = mixes.fitting(wanted, n)
    if rows % dtype.interleave:
        dtype = dtypes.by_name(dtype.name.rpartition("_R")[0])
    return Choice(info, dtype, wanted)


def _wanted(info: TensorInfo, places: "_Places", o: QuantizeOptions) -> DType | None:
    """The type by name and options; None leaves the tensor as it is."""
    name, mix = info.name, o.mix
    if mix is None or not _is_quantised(info, o):
        return None
    if (rule := _rule_for(info, o)) is not None:
        return rule.dtype
    # A tied embedding also makes the logits, which errors of its weights reach directly.
    makes_logits = name == OUTPUT or (name == EMBEDDING and not places.has_output)
    if name == EMBEDDING and o.token_embedding is not None:
        return o.token_embedding
    if makes_logits and o.output_tensor is not None:
        return o.output_tensor
    base = dtypes.by_name(mix.base)
    if o.is_pure or base.block == 1:
        return base
    if makes_logits:
        return dtypes.by_name(mixes.output_type(mix, info.shape[-1]))
    if name == EMBEDDING:
        return dtypes.by_name(mixes.embedding_type(mix))
    is_experts = len(info.shape) > 2
    return dtypes.by_name(mixes.inner_type(mix, name, is_experts, lambda part: places.of(name, part)))


def _is_quantised(info: TensorInfo, o: QuantizeOptions) -> bool:
    is_left = info.name == OUTPUT and o.leave_output
    return o.mix is not None and not is_left and mixes.is_quantised(info.name, info.shape)


def _rule_for(info: TensorInfo, o: QuantizeOptions) -> TypeRule | None:
    """The first rule of the user that finds a tensor, if that is quantised at all."""
    return next((r for r in o.custom if _is_quantised(info, o) and r.pattern.search(info.name)), None)


class _Places:
    """Facts about a file, and the place of a tensor in it, for the rules of mixes."""

    def __init__(self, file: ModelFile, has_importance: bool) -> None:
        arch = file.get("general.architecture", str)
        self.has_output = OUTPUT in file.tensors
        self._n_layer = _count(file.metadata, f"{arch}.block_count", 1)
        heads = _count(file.metadata, f"{arch}.attention.head_count", 1)
        self._gqa = heads // max(_count(file.metadata, f"{arch}.attention.head_count_kv", heads), 1)
        self._n_expert = _count(file.metadata, f"{arch}.expert_count", 1)
        self._is_70b = self._n_layer == 80 and arch in ("llama", "qwen2")
        self._has_importance = has_importance
        names = list(file.tensors)
        self._values = sorted((n for n in names if "attn_v.weight" in n), key=layer_of)
        value_names = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")
        self._n_values = sum(any(part in n for part in value_names) for n in names)

    def of(self, name: str, part: str) -> Place:
        """Values are counted among the tensors that hold values, all else by layers."""
        is_value = part == "attn_v.weight"
        i, n = (self._values.index(name), self._n_values) if is_value else (layer_of(name), self._n_layer)
        return Place(i, n, self._gqa, self._n_expert, self._has_importance, self._is_70b)


def _count(metadata: Mapping[str, object], key: str, default: int) -> int:
    """An integer key; of a list with one number per layer the largest."""
    value = metadata.get(key, default)
    if isinstance(value, np.ndarray):
        return int(value.max(initial=default))
    return value if isinstance(value, int) else default
