"""MiniCPM3: latent attention and dense layers, with fixed factors on embedding, sub-layers and logits."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    LatentConfig,
    embed,
    gated_ffn,
    head,
    latent_attention,
    latent_halves,
    norm,
    rope_of,
)
from graphsched.ops import Rope, scale
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class MiniCpm3Config(LatentConfig):
    @property
    def rope(self) -> Rope:
        return rope_of(self, "neox")

    @property
    def scale(self) -> float:
        return self.head_dim**-0.5


@architecture("minicpm3", MiniCpm3Config, derive=latent_halves)
def minicpm3(c: MiniCpm3Config, w: Weights, inp: Inputs) -> Tensor:
    by = 1.4 * c.n_layer**-0.5
    x = scale(embed(c, w, inp), by=12.0)  # [T, D]
    for blk in w.blk:
        x = x + scale(latent_attention(c, blk, norm(c, x, blk, "attn_norm"), inp), by=by)
        x = x + scale(gated_ffn(blk, norm(c, x, blk, "ffn_norm")), by=by)
    return scale(head(c, w, x), by=256.0 / c.n_embd)  # [T, V]
