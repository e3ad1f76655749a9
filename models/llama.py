"""Llama: pre-norm, grouped-query attention with RoPE, SwiGLU feed-forward; Mixtral with experts."""

from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    embed,
    experts,
    gated_ffn,
    head,
    norm,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(AttentionConfig, ExpertConfig):
    pass


@architecture("llama", LlamaConfig, scaled=EVERY_SCALE)
def llama(c: LlamaConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "norm")
    factors = w.sized("rope_freqs", c.rope_dim // 2) if "rope_freqs" in w else None
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + feed_forward(c, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def feed_forward(c: LlamaConfig, blk: Weights, x: Tensor) -> Tensor:
    """Experts where the layer has a router, else a dense layer. [T, D] -> [T, D]"""
    if "ffn_gate_inp" in blk:
        return experts(Routing(c.n_expert, c.n_expert_used, normalised=True), blk, x)
    return gated_ffn(blk, x)
