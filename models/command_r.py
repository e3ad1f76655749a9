"""Command R: LayerNorm without biases, attention and feed-forward side by side, scaled logits."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    LayerNormConfig,
    embed,
    gated_ffn,
    head,
    norm,
    normed_by_head,
    rope_of,
    scaled,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class CommandRConfig(LayerNormConfig):
    logit_scale: float = key("logit_scale", 0.0)


@architecture("command-r", CommandRConfig)
def command_r(c: CommandRConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, qk_norm = rope_of(c, "norm"), normed_by_head if c.n_layer >= 64 else None
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        x = x + self_attention(c, blk, h, inp, rope, qk_norm=qk_norm) + gated_ffn(blk, h)
    return scaled(head(c, w, x, tied=True), c.logit_scale)  # [T, V]
