"""GLM-4.5: partial RoPE, biases on queries, keys and values; experts by sigmoid with a bias on the choice."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    RoutingConfig,
    attend,
    embed,
    experts_and_shared,
    gated_ffn,
    head,
    linear,
    norm,
    qkv,
    rope_of,
    rotated,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Glm4MoeConfig(AttentionConfig, RoutingConfig):
    gating: int = key("expert_gating_func", 2, low=1, high=2)


@architecture("glm4moe", Glm4MoeConfig)
def glm4moe(c: Glm4MoeConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        h = norm(c, x, blk, "post_attention_norm")
        x = x + (experts_and_shared(c.routing, blk, h) if "ffn_gate_inp" in blk else gated_ffn(blk, h))
    return head(c, w, x)  # [T, V]


def self_attention(c: Glm4MoeConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Projections with biases; heads are normed where the file has the weights. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x, bias=True)
    if "attn_q_norm" in blk:
        q, k = norm(c, q, blk, "attn_q_norm"), norm(c, k, blk, "attn_k_norm")
    q, k = rotated(rope_of(c, "neox"), q, k, inp)
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp), c.n_embd)
