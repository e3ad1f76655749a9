"""config.json of a Hugging Face model to GGUF keys."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphsched.convert.names import COUNTS, NEEDED, Family
from graphsched.errors import LoadError
from graphsched.gguf.format import MetaValue, printable, shown

_LONGEST: Final = 1 << 28  # bytes of JSON that are read
_LARGEST_HEAD: Final = 1 << 16
_MISSING: Final = object()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of a file. LoadError for all else."""
    name = printable(path.name)
    try:
        if path.stat().st_size > _LONGEST:
            raise LoadError(f"{name}: is too long for a file of its kind")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise LoadError(f"{printable(str(path))}: {(e.strerror or str(e)).lower()}") from None
    except (ValueError, RecursionError) as e:
        raise LoadError(f"{name}: is not JSON, {printable(str(e))}") from None
    if not isinstance(value, dict):
        raise LoadError(f"{name}: is not a JSON object")
    return value


class HfConfig:
    """Checked access to a config; `where` names it in errors."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def count(self, key: str, default: Any = _MISSING) -> Any:
        """A positive integer."""
        value = self.values.get(key)
        if value is None and default is not _MISSING:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            state = "is missing" if value is None else f"is {shown(str(value))}"
            raise LoadError(f"{self.where}: key {key} {state}, a positive integer is needed")
        return value

    def whole(self, key: str) -> int:
        """An integer from 0 up. LoadError for all else."""
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
            raise LoadError(f"{self.where}: key {key} is {shown(str(value))}, an integer from 0 up is needed")
        return value

    def flag(self, key: str) -> bool:
        """A truth value. LoadError for all else."""
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise LoadError(f"{self.where}: key {key} is {shown(str(value))}, true or false is needed")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A finite number. LoadError for all else, and for a missing key without a default."""
        value = self.values.get(key)
        if value is None and default is not _MISSING:
            return float(default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            state = "is missing" if value is None else f"is {shown(str(value))}"
            raise LoadError(f"{self.where}: key {key} {state}, a number is needed")
        return float(value)

    def nested(self, key: str) -> "HfConfig":
        """A nested object, empty if there is none."""
        value = self.values.get(key)
        return HfConfig(value if isinstance(value, dict) else {}, f"{self.where}: {key}")

    @property
    def of_text(self) -> "HfConfig":
        """The config of a model's text part, where one has further parts; what is said of all of them holds for it."""
        text = self.values.get("text_config")
        if not isinstance(text, dict):
            return self
        whole = {key: self.values[key] for key in ("tie_word_embeddings",) if key in self.values}
        return HfConfig({**self.values, **text, **whole}, self.where)

    @property
    def head_dim(self) -> int:
        """Dimensions of a head; hidden_size / num_attention_heads unless the config says otherwise."""
        heads = self.count("num_attention_heads")
        found = int(self.count("head_dim", max(self.count("hidden_size") // heads, 1)))
        if found > _LARGEST_HEAD:
            raise LoadError(f"{self.where}: heads of {found} are too large")
        return found

    @property
    def expert_width(self) -> int:
        """Of each expert's feed-forward, or of the only one, where nothing is said of experts."""
        found = self.count("moe_intermediate_size", None)
        return int(self.count("intermediate_size") if found is None else found)

    @property
    def rope(self) -> "HfConfig":
        """The rotary parameters, wherever this version of transformers has them."""
        for key in ("rope_scaling", "rope_parameters"):
            if isinstance(self.values.get(key), dict):
                found = self.nested(key)
                return found.nested("full_attention") if "full_attention" in found.values else found
        return HfConfig({}, self.where)

    @property
    def near_rope(self) -> "HfConfig":
        """Those of layers that see a window, where they are said apart."""
        return self.nested("rope_parameters").nested("sliding_attention")


def metadata(config: HfConfig, family: Family) -> dict[str, MetaValue]:
    """Keys of the architecture."""
    for key in NEEDED:
        config.count(key)
    _ = config.expert_width  # one of two keys is there
    keys: dict[str, MetaValue] = {
        gguf: config.count(key) for key, gguf in COUNTS.items() if config.values.get(key) is not None
    }
    keys.setdefault("attention.head_count_kv", config.count("num_attention_heads"))
    eps, gguf_eps = family.eps
    keys |= {gguf_eps: config.number(eps, 1e-6)} | _rotation(config, family)
    if config.values.get("head_dim") is not None:
        keys |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    keys |= _own(config, family) | _scaling(config.rope)
    return {f"{family.arch}.{key}": value for key, value in keys.items()}


def _rotation(config: HfConfig, family: Family) -> dict[str, MetaValue]:
    """The base, and as much of a head as turns."""
    part = rotary_part(config) if family.is_partial else 1.0
    n = config.count("rotary_dim", int(config.head_dim * part)) if family.is_partial else config.head_dim
    theta = config.rope.number("rope_theta", config.number("rope_theta", 10000.0))
    found: dict[str, MetaValue] = {"rope.freq_base": theta, "rope.dimension_count": n}
    if "rope_theta" in config.near_rope.values:
        found["rope.freq_base_swa"] = config.near_rope.number("rope_theta")
    return found


def rotary_part(config: HfConfig) -> float:
    """The share of a head that turns."""
    return config.rope.number("partial_rotary_factor", config.number("partial_rotary_factor", 1.0))


def _own(config: HfConfig, family: Family) -> dict[str, MetaValue]:
    """What a family's config has beside that of all."""
    there = {key for key, value in config.values.items() if value is not None}
    found: dict[str, MetaValue] = dict(family.fixed)
    found |= {gguf: config.whole(key) for key, gguf in family.counts.items() if key in there}
    found |= {gguf: config.number(key) for key, gguf in family.numbers.items() if key in there}
    found |= {gguf: config.flag(key) for key, gguf in family.flags.items() if key in there}
    return found | (family.more(config) if family.more else {})


def check_plain(config: HfConfig, family: Family) -> tuple[str, ...]:
    """LoadError for what the architecture computes otherwise; sentences for what it leaves out."""
    act = config.values.get("hidden_act") or config.values.get("hidden_activation")
    if act is not None and act not in family.acts:
        raise LoadError(
            f"{config.where}: hidden_act is {shown(str(act))}, {family.arch} models have {family.acts[0]}"
        )
    last = config.values.get("num_hidden_layers", 0)
    for key, needed in family.refused.items():
        value = config.values.get(key, needed)
        if value != needed and not (key.endswith("_end_index") and value == last - 1):
            raise LoadError(
                f"{config.where}: {key} is {shown(json.dumps(value))}, {family.arch} models have {json.dumps(needed)}"
            )
    part = rotary_part(config)
    if part != 1 and not family.is_partial:
        raise LoadError(f"{config.where}: partial_rotary_factor is {part:g}, {family.arch} models turn all")
    return _left_out(config, family)


def _left_out(config: HfConfig, family: Family) -> tuple[str, ...]:
    """A sentence about a window that the architecture does not have."""
    window = config.values.get("sliding_window")
    is_used = window is not None and config.values.get("use_sliding_window") is not False
    if family.windows or not is_used:
        return ()
    if config.count("sliding_window") < config.count("max_position_embeddings", 1 << 30):
        return (f"{config.where}: sliding_window {window} is left out, every layer sees the whole context",)
    return ()


def _scaling(rope: HfConfig) -> dict[str, MetaValue]:
    """The rope.scaling keys; llama3's becomes a tensor instead."""
    kind = rope.values.get("rope_type", rope.values.get("type", "default"))
    if kind in ("default", "llama3"):
        return {}
    if kind not in ("linear", "yarn"):
        raise LoadError(f"{rope.where}: rotary scaling {shown(str(kind))} cannot be converted")
    keys: dict[str, MetaValue] = {
        "rope.scaling.type": str(kind),
        "rope.scaling.factor": rope.number("factor"),
    }
    if kind == "yarn":
        keys["rope.scaling.original_context_length"] = rope.count("original_max_position_embeddings")
    return keys


def rope_factors(config: HfConfig) -> NDArray[np.float32] | None:
    """Llama 3's divisors of the angles [head_dim / 2], which GGUF keeps in the tensor rope_freqs."""
    rope = config.rope
    if rope.values.get("rope_type", rope.values.get("type")) != "llama3":
        return None
    n, theta = config.head_dim, rope.number("rope_theta", config.number("rope_theta", 10000.0))
    factor, context = rope.number("factor", 8.0), rope.number("original_max_position_embeddings", 8192)
    low, high = rope.number("low_freq_factor", 1.0), rope.number("high_freq_factor", 4.0)
    if not (factor > 0 and theta > 0 and high > low > 0):
        raise LoadError(f"{rope.where}: factors of llama3 scaling that cannot be")
    turns = context / (2 * math.pi * theta ** (np.arange(0, n, 2) / n))  # in the original context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)
