"""Mistral 3 (Ministral): Llama with YaRN's numbers in the file and queries that sharpen with distance; or experts."""

from dataclasses import dataclass, replace

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    attend,
    embed,
    feed_forward,
    head,
    less_yarn,
    linear,
    norm,
    qkv,
    rope_factors,
    rope_of,
    rotated,
)
from graphsched.ops import Rope, temperature_scale
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Mistral3Config(AttentionConfig, ExpertConfig):
    beta_fast: float = key("rope.scaling.yarn_beta_fast", 32.0, low=1e-3)
    beta_slow: float = key("rope.scaling.yarn_beta_slow", 1.0, low=1e-3)
    yarn_log: float = key("rope.scaling.yarn_log_multiplier", 0.0)
    temperature: float = key("attention.temperature_scale", 0.0)

    @property
    def rope(self) -> Rope:
        """YaRN with the file's betas, and with the magnitude that its multiplier leaves."""
        rope = replace(rope_of(self, "norm"), beta_fast=self.beta_fast, beta_slow=self.beta_slow)
        return less_yarn(rope, self.yarn_log)


@architecture("mistral3", Mistral3Config, scaled=EVERY_SCALE)
def mistral3(c: Mistral3Config, w: Weights, inp: Inputs) -> Tensor:
    routing, factors = Routing(c.n_expert, c.n_expert_used, normalised=True), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, factors)
        x = x + feed_forward(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(c: Mistral3Config, blk: Weights, x: Tensor, inp: Inputs, factors: Tensor | None) -> Tensor:
    """Queries are scaled by position, in steps of the original context. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x)
    q, k = rotated(c.rope, q, k, inp, factors)
    if c.temperature:
        q = temperature_scale(q, inp.pos, length=c.rope_context, slope=c.temperature)
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp), c.n_embd)
