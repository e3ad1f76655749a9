"""DeepSeek-V2, V3 and R1: multi-head latent attention (MLA), YaRN, many small experts beside shared ones."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    LatentConfig,
    RoutingConfig,
    embed,
    experts_and_shared,
    gated_ffn,
    head,
    latent_attention,
    latent_halves,
    norm,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class DeepSeek2Config(LatentConfig, RoutingConfig):
    pass


@architecture("deepseek2", DeepSeek2Config, derive=latent_halves)
def deepseek2(c: DeepSeek2Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + latent_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        h = norm(c, x, blk, "ffn_norm")
        x = x + (experts_and_shared(c.routing, blk, h) if "ffn_gate_inp" in blk else gated_ffn(blk, h))
    return head(c, w, x)  # [T, V]
