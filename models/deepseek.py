"""DeepSeek (V1 MoE): Llama's attention; leading dense layers, experts with weights as they are, shared ones."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    embed,
    feed_forward,
    head,
    norm,
    rope_factors,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class DeepSeekConfig(AttentionConfig, ExpertConfig):
    weights_scale: float = key("expert_weights_scale", 0.0)


@architecture("deepseek", DeepSeekConfig)
def deepseek(c: DeepSeekConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used, scale=c.weights_scale)
    rope, factors = rope_of(c, "norm"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + feed_forward(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
