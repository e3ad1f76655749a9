"""MiniMax-M2: queries and keys normed over all heads, partial RoPE; experts by sigmoid with a bias on the choice."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    RoutingConfig,
    embed,
    experts,
    head,
    norm,
    normed_whole,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class MiniMaxM2Config(AttentionConfig, RoutingConfig):
    gating: int = key("expert_gating_func", low=1, high=2)
    normalised: bool = True
    weights_scale: float = 0.0


@architecture("minimax-m2", MiniMaxM2Config)
def minimax_m2(c: MiniMaxM2Config, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, qk_norm=normed_whole)
        x = x + experts(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
