"""MiniCPM: Granite's graph with factors of its own where the file has none."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.models.granite import GraniteConfig, granite
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class MiniCpmConfig(GraniteConfig):
    embedding_scale: float = key("embedding_scale", 12.0)
    residual_scale: float = key("residual_scale", lambda c: 1.4 / c.n_layer**0.5)
    logit_scale: float = key("logit_scale", lambda c: 256.0 / c.n_embd)


@architecture("minicpm", MiniCpmConfig)
def minicpm(c: MiniCpmConfig, w: Weights, inp: Inputs) -> Tensor:
    return granite(c, w, inp)  # [T, V]
