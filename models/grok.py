"""Grok: norms around attention and experts, capped scores and logits, experts beside a dense layer in Grok 2."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    embed,
    experts,
    gated_ffn,
    geglu,
    head,
    norm,
    rope_of,
    scaled,
    self_attention,
)
from graphsched.ops import scale, softcap
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class GrokConfig(AttentionConfig, ExpertConfig):
    embedding_scale: float = key("embedding_scale", 78.38367176906169)
    score_scale: float = key("attention.output_scale", 0.08838834764831845)
    score_cap: float = key("attn_logit_softcapping", 30.0)
    logit_scale: float = key("logit_scale", 0.5773502691896257)
    logit_cap: float = key("final_logit_softcapping", 0.0)


@architecture("grok", GrokConfig)
def grok(c: GrokConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = scaled(embed(c, w, inp), c.embedding_scale)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        attention = self_attention(c, blk, h, inp, rope, scale=c.score_scale, softcap=c.score_cap)
        x = x + norm(c, attention, blk, "attn_output_norm")
        ffn = feed_forward(c, blk, norm(c, x, blk, "ffn_norm"))
        x = x + norm(c, ffn, blk, "layer_output_norm" if "layer_output_norm" in blk else "post_ffw_norm")
    logits = scaled(head(c, w, x), c.logit_scale)  # [T, V]
    return softcap(logits, cap=c.logit_cap) if c.logit_cap else logits


def feed_forward(c: GrokConfig, blk: Weights, x: Tensor) -> Tensor:
    """GELU experts; in Grok 2 a dense layer beside them, the sum times √½. [T, D] -> [T, D]"""
    routing = Routing(c.n_expert, c.n_expert_used, normalised=True)
    moe = experts(routing, blk, x, activation=geglu)
    return scale(moe + gated_ffn(blk, x, activation=geglu), by=0.5**0.5) if "ffn_up" in blk else moe
