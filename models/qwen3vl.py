"""Qwen3-VL, its text: Qwen3 whose rotation knows three positions of images, all the same in text."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    embed,
    gated_ffn,
    head,
    norm,
    normed_heads,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@architecture("qwen3vl", AttentionConfig)
def qwen3vl(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "imrope")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, qk_norm=normed_heads)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
