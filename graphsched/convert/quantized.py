"""Reads how weights are quantised (quantization_config); schemes that are not supported are refused by name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphsched.convert.config import HfConfig
from graphsched.errors import LoadError
from graphsched.gguf.format import shown

READ: Final = "compressed-tensors int8, int4 and fp8, fp8, fbgemm_fp8, modelopt FP8 and bitnet"
_FORMATS: Final = (
    "dense",
    "int-quantized",
    "naive-quantized",
    "float-quantized",
    "pack-quantized",
    "mixed-precision",
)
_PLAIN_METHODS: Final = ("fp8", "fbgemm_fp8")


@dataclass(frozen=True)
class Scheme:
    """How quantised matrices of a checkpoint are stored.

    block: rows and columns that share a scale, where the config says so (0: all of them, or one, by the scale's shape).
    bits: of packed integers, what they may have.
    """

    method: str
    block: tuple[int, int] = (0, 0)
    bits: tuple[int, ...] = ()


def scheme_of(config: HfConfig) -> Scheme | None:
    """The scheme of a config, None of plain weights; LoadError for one that is not read."""
    scheme = config.values.get("quantization_config") or config.values.get("compression_config")
    if scheme is None:
        return None
    where = f"{config.where}: quantization_config"
    if not isinstance(scheme, dict):
        raise LoadError(f"{where} is not an object")
    method = str(scheme.get("quant_method"))
    if method == "bitnet":
        return Scheme(method)
    if method == "compressed-tensors":
        return _compressed(scheme, where)
    if method in _PLAIN_METHODS or (method == "modelopt" and scheme.get("quant_algo") == "FP8"):
        return Scheme(method, _block(scheme.get("weight_block_size"), where))
    kind = shown(" ".join([method, *(str(scheme[k]) for k in ("quant_algo", "bits") if k in scheme)]))
    raise LoadError(
        f"{where}: the weights are quantised with {kind}, which is not read; convert reads {READ}"
    )


def _block(value: Any, where: str) -> tuple[int, int]:
    if value is None:
        return 0, 0
    if isinstance(value, list) and len(value) == 2 and all(type(n) is int and n > 0 for n in value):
        return value[0], value[1]
    raise LoadError(f"{where}: blocks of {shown(str(value))} are no rows and columns")


def _compressed(scheme: Mapping[str, Any], where: str) -> Scheme:
    """compressed-tensors: every group of layers must have weights of a kind that is read."""
    form = scheme.get("format", "dense")
    sparse = scheme.get("sparsity_config")
    if isinstance(sparse, dict) and sparse.get("format", "dense") != "dense":
        form = f"sparse, {sparse['format']}"
    weights = list(_group_weights(scheme, where))
    if form not in _FORMATS:
        raise LoadError(f"{where}: the format {shown(str(form))} is not read; convert reads {READ}")
    blocks = {_block_of(w, where) for w in weights}
    bits = {w["num_bits"] for w in weights}
    return Scheme("compressed-tensors", blocks.pop() if len(blocks) == 1 else (0, 0), tuple(sorted(bits)))


def _group_weights(scheme: Mapping[str, Any], where: str) -> Iterator[dict[str, Any]]:
    groups = scheme.get("config_groups")
    for name, group in (groups if isinstance(groups, dict) else {}).items():
        weights = group.get("weights") if isinstance(group, dict) else None
        if weights is None:  # a group of activations only
            continue
        bits, kind = (
            (weights.get(key) for key in ("num_bits", "type")) if isinstance(weights, dict) else (0, "")
        )
        if (bits, kind or "int") not in ((8, "int"), (4, "int"), (8, "float")):
            what = f"{shown(str(name))} has weights of {shown(str(bits))} bits, {shown(str(kind))}"
            raise LoadError(f"{where}: {what}, which are not read; convert reads {READ}")
        yield weights


def _block_of(weights: Mapping[str, Any], where: str) -> tuple[int, int]:
    if (structure := weights.get("block_structure")) is not None:
        return _block(
            [int(n) for n in structure.split("x")] if isinstance(structure, str) else structure, where
        )
    size = weights.get("group_size")
    return (1, size) if type(size) is int and size > 0 else (0, 0)
