"""Granite 3 MoE: Granite with experts, which always rotates."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.models.granite import GraniteConfig, granite
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class GraniteMoeConfig(GraniteConfig):
    rotates: bool = True


@architecture("granitemoe", GraniteMoeConfig)
def granitemoe(c: GraniteMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    return granite(c, w, inp)  # [T, V]
