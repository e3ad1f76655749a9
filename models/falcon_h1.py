"""Falcon-H1: attention and Mamba 2 beside each other in every layer, both over the same row."""

from dataclasses import dataclass

from graphsched.arch import SCALED, Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    Mamba2Config,
    embed,
    gated_ffn,
    head,
    mamba2_layer,
    norm,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class FalconH1Config(Mamba2Config, AttentionConfig):
    pass


@architecture("falcon-h1", FalconH1Config, scaled=(*SCALED, "ssm_in", "ssm_out"))
def falcon_h1(c: FalconH1Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        attention = self_attention(c, blk, h, inp, rope_of(c, "neox"), out_bias=False)
        x = x + (attention + mamba2_layer(c, blk, h, inp))
        # Converters leave the suffix of this name out.
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm" if "ffn_norm" in blk else "ffn_norm."))
    return head(c, w, x)  # [T, V]
