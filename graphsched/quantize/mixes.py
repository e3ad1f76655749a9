"""The mixes of `quantize TYPE`: the type of most matrices, and rules for tensors that get another one.

Names, file type numbers and rules are llama.cpp's, those of BN types ik_llama.cpp's, of I2_S bitnet.cpp's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from graphsched.types.dtypes import DType, by_name


@dataclass(frozen=True)
class Mix:
    """A file type: its number and the type of most matrices."""

    name: str
    file_type: int
    base: str


MIXES: Final = {
    m.name: m
    for m in (
        Mix("F32", 0, "F32"),
        Mix("F16", 1, "F16"),
        Mix("BF16", 32, "BF16"),
        Mix("Q4_0", 2, "Q4_0"),
        Mix("Q4_1", 3, "Q4_1"),
        Mix("Q5_0", 8, "Q5_0"),
        Mix("Q5_1", 9, "Q5_1"),
        Mix("Q8_0", 7, "Q8_0"),
        Mix("Q2_K", 10, "Q2_K"),
        Mix("Q2_K_S", 21, "Q2_K"),
        Mix("Q3_K_S", 11, "Q3_K"),
        Mix("Q3_K_M", 12, "Q3_K"),
        Mix("Q3_K_L", 13, "Q3_K"),
        Mix("Q4_K_S", 14, "Q4_K"),
        Mix("Q4_K_M", 15, "Q4_K"),
        Mix("Q5_K_S", 16, "Q5_K"),
        Mix("Q5_K_M", 17, "Q5_K"),
        Mix("Q6_K", 18, "Q6_K"),
        Mix("IQ4_NL", 25, "IQ4_NL"),
        Mix("IQ4_XS", 30, "IQ4_XS"),
        Mix("MXFP4", 38, "MXFP4"),
        Mix("MXFP4_MOE", 38, "MXFP4"),
        Mix("TQ1_0", 36, "TQ1_0"),
        Mix("TQ2_0", 37, "TQ2_0"),
        Mix("IQ1_BN", 136, "IQ1_BN"),
        Mix("IQ2_BN", 137, "IQ2_BN"),
        Mix("IQ2_BN_R4", 337, "IQ2_BN_R4"),
        Mix("I2_S", 40, "I2_S"),
    )
}
ALIASES: Final = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
# Codes of these are points of a lattice; their search needs tables and an importance matrix.
GRIDS: Final = (
    "IQ1_S",
    "IQ1_M",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ2_M",
    "IQ3_XXS",
    "IQ3_XS",
    "IQ3_S",
    "IQ3_M",
)
# What takes the place of a type whose blocks do not divide a row, IQ4_NL of others; the last resort is F16.
SMALLER: Final = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "IQ4_XS": "IQ4_NL",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
}


def fitting(dtype: DType, n: int) -> DType:
    """The type, or the one that takes its place for rows of n weights."""
    if n % dtype.block:
        dtype = by_name(SMALLER.get(dtype.name, "IQ4_NL"))
    return by_name("F16") if n % dtype.block else dtype


@dataclass(frozen=True)
class Place:
    """The place of a tensor for the rules: the i-th of n, with facts about the model."""

    i: int
    n: int
    gqa: int
    n_expert: int
    has_importance: bool
    is_70b: bool = False

    @property
    def is_early(self) -> bool:
        """Whether the tensor is in the first eighth of the layers."""
        return self.i < self.n // 8

    @property
    def needs_more(self) -> bool:
        """The first and the last eighth of the layers, and every third between them."""
        return self.is_early or self.i >= 7 * self.n // 8 or (self.i - self.n // 8) % 3 == 2


@dataclass(frozen=True)
class Rule:
    """Of these mixes a tensor gets another type, where `when` holds."""

    mixes: str
    type: str
    when: Callable[[Place], bool] = lambda p: True


# By a part of the tensor's name, the first that is in it; of its rules the first that holds.
RULES: Final = {
    "attn_v.weight": (
        Rule(" ".join(MIXES), "Q8_0", lambda p: p.n_expert == 8),
        Rule("Q2_K Q2_K_S", "Q5_K", lambda p: p.is_70b),
        Rule("Q2_K Q2_K_S", "Q4_K", lambda p: p.gqa >= 4),
        Rule("Q2_K", "Q3_K"),
        Rule("Q3_K_S Q3_K_M Q4_K_S", "Q5_K", lambda p: p.is_70b),
        Rule("Q3_K_M", "Q5_K", lambda p: p.i < 2),
        Rule("Q3_K_M", "Q4_K"),
        Rule("Q3_K_L", "Q5_K"),
        Rule("IQ4_NL IQ4_XS", "Q5_K", lambda p: p.gqa >= 4),
        Rule("Q4_K_M Q5_K_M", "Q6_K", lambda p: p.needs_more),
        Rule("Q4_K_M", "Q5_K", lambda p: p.is_70b),
        Rule("Q4_K_S", "Q5_K", lambda p: p.i < 4),
    ),
    "attn_k.weight": (Rule(" ".join(MIXES), "Q8_0", lambda p: p.n_expert == 8),),
    "ffn_down": (
        Rule("Q2_K", "Q3_K"),
        Rule("Q2_K_S", "Q4_K", lambda p: p.is_early),
        Rule("Q3_K_M", "Q5_K", lambda p: p.i < p.n // 16),
        Rule("Q3_K_M", "Q4_K"),
        Rule("Q3_K_L", "Q5_K"),
        Rule("Q4_K_M Q5_K_M", "Q6_K", lambda p: p.needs_more),
        Rule("IQ4_NL IQ4_XS", "Q5_K", lambda p: p.is_early and not p.has_importance),
        Rule("Q4_K_S", "Q5_K", lambda p: p.is_early),
        Rule("Q4_0", "Q4_1", lambda p: p.is_early and p.has_importance),
        Rule("Q5_0", "Q5_1", lambda p: p.is_early and p.has_importance),
    ),
    "attn_output.weight": (
        Rule("Q2_K Q3_K_S Q3_K_M IQ4_NL Q4_K_S Q4_K_M IQ4_XS", "Q5_K", lambda p: p.n_expert == 8),
        Rule("Q2_K", "Q3_K", lambda p: p.n_expert != 8),
        Rule("Q3_K_M", "Q4_K", lambda p: p.n_expert != 8),
        Rule("Q3_K_L", "Q5_K", lambda p: p.n_expert != 8),
    ),
    "attn_qkv.weight": (
        Rule("Q3_K_M Q3_K_L", "Q4_K"),
        Rule("Q4_K_M", "Q5_K"),
        Rule("Q5_K_M", "Q6_K"),
    ),
}
_TERNARY: Final = ("IQ1_BN", "IQ2_BN", "IQ2_BN_R4")


def output_type(mix: Mix, n: int) -> str:
    """Of the matrix that makes logits: rows of n weights."""
    if mix.name == "I2_S":
        return "F16"
    if mix.name == "MXFP4_MOE" or n % by_name(mix.base).block or mix.base == "Q8_0":
        return "Q8_0"
    return "Q6_K"


def embedding_type(mix: Mix) -> str:
    """Of the matrix that is read by token, where another one makes logits."""
    if mix.name in _TERNARY:
        return "IQ4_NL"
    if mix.base in ("TQ1_0", "TQ2_0"):
        return "Q4_K"
    return {"I2_S": "F16", "MXFP4_MOE": "Q8_0"}.get(mix.name, mix.base)


def inner_type(mix: Mix, name: str, is_experts: bool, place: Callable[[str], Place]) -> str:
    """Of a matrix inside a layer; `place` says where it is among those with that part in their names."""
    if mix.name == "MXFP4_MOE":
        return mix.base if is_experts else "Q8_0"
    part = next((part for part in RULES if part in name), None)
    for rule in RULES[part] if part else ():
        if mix.name in rule.mixes.split() and rule.when(place(part or "")):
            return rule.type
    return mix.base


_NOT_QUANTISED: Final = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "attn_rel_b.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
)


def is_quantised(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a matrix that may lose bits: not norms, biases, routers and the like."""
    is_matrix = name.endswith("weight") and any(d > 1 for d in shape[:-1])
    others = ("position_embd.weight", "token_types.weight")
    return is_matrix and name not in others and not any(part in name for part in _NOT_QUANTISED)
