"""Qwen3.5: three of four layers a gated delta rule, the others attention with gated outputs."""

from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    DeltaConfig,
    Projected,
    Sections,
    delta_layer,
    embed,
    gated_ffn,
    head,
    linear,
    norm,
    query_gated_attention,
    rope_of,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Qwen35Config(DeltaConfig):
    rope_sections: Sections = key("rope.dimension_sections")


@architecture("qwen35", Qwen35Config, scaled=EVERY_SCALE)
def qwen35(c: Qwen35Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        x = x + mixer(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + gated_ffn(blk, norm(c, x, blk, "post_attention_norm"))
    return head(c, w, x)  # [T, V]


def mixer(c: Qwen35Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """The delta rule, or attention. [T, D] -> [T, D]"""
    if not c.recurs(blk):
        return query_gated_attention(c, blk, x, inp, rope_of(c, "imrope"))
    projected = Projected(
        linear(blk, "attn_qkv", x, c.channels),
        linear(blk, "attn_gate", x, c.inner),
        linear(blk, "ssm_beta", x, c.n_value),
        linear(blk, "ssm_alpha", x, c.n_value),
    )
    return delta_layer(c, blk, projected, inp, tiled=True)
