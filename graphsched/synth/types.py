"""Types of a synthetic model's tensors, given the type of its matrices."""

from difflib import get_close_matches
from typing import Final

from graphsched.errors import OptionError
from graphsched.gguf.format import printable
from graphsched.graph.tensor import layer_of
from graphsched.quantize import mixes
from graphsched.types import dtypes
from graphsched.types.dtypes import DType

TERNARY: Final = ("IQ1_BN", "IQ2_BN", "IQ2_BN_R4", "I2_S", "TQ1_0", "TQ2_0")
MIXES: Final = {"Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "MXFP4_MOE": "MXFP4"}
_NOT_WEIGHTS: Final = ("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K", "Q8_KV")
# A plain Q4_K has no mix: its number is that of the mix which has least of other types.
FILE_TYPES: Final = {m.name: m.file_type for m in mixes.MIXES.values()} | {"Q4_K": 14, "Q5_K": 16}


def type_name(text: str) -> str:
    """The type as it is written, of any case; a type that no weight has is an error."""
    known = [t.name for t in dtypes.all_types() if t.name not in _NOT_WEIGHTS]
    name = text.upper()
    if name not in known and name not in MIXES:
        close = get_close_matches(name, [*known, *MIXES], 1)
        hint = f"did you mean {close[0]}?" if close else "there are such as F16, Q4_0, Q4_K_M, IQ4_NL, IQ2_BN"
        raise OptionError(f"no type {printable(text)} for weights; {hint}")
    return name


def type_for(name: str, shape: tuple[int, ...], type: str, n_layer: int) -> DType:
    """The type of a tensor: norms, biases, routers and convolutions stay F32, as in every converted model."""
    if is_vector(name, shape) or "ffn_gate_inp" in name or "ssm_conv1d" in name or "shortconv.conv" in name:
        return dtypes.F32
    if type in MIXES:
        return _fitting(_mixed(name, type, n_layer), shape)
    if name in ("token_embd.weight", "output.weight"):
        if type in TERNARY:
            return dtypes.F16 if type == "I2_S" else _fitting("Q6_K", shape)
        if name == "token_embd.weight" and dtypes.by_name(type).interleave > 1:
            type = type.rpartition("_R")[0]  # single rows are read from it
    return _fitting(type, shape)


def is_vector(name: str, shape: tuple[int, ...]) -> bool:
    """Whether it is no matrix of a product: a norm, a bias, a number per head."""
    return len(shape) == 1 or shape[-1] == 1 or name.endswith(("norm.weight", ".bias"))


def _mixed(name: str, type: str, n_layer: int) -> str:
    """llama.cpp's Q4_K_M and Q5_K_M: more bits for the output and for half of the values and down projections.

    MXFP4_MOE is for experts, with Q8_0 around them.
    """
    if type == "MXFP4_MOE":
        return "MXFP4" if "_exps" in name else "Q8_0"
    i = layer_of(name)
    more = i < n_layer // 8 or i >= 7 * n_layer // 8 or (i - n_layer // 8) % 3 == 2
    is_wide = name == "output.weight" or (i >= 0 and more and ("attn_v." in name or "ffn_down" in name))
    return "Q6_K" if is_wide else MIXES[type]


def _fitting(type: str, shape: tuple[int, ...]) -> DType:
    """The type, or one with smaller blocks or groups if the shape needs it."""
    found = dtypes.by_name(type)
    if found.interleave > 1 and shape[-2] % found.interleave:
        found = dtypes.by_name(type.rpartition("_R")[0])
    return mixes.fitting(found, shape[-1])
