"""Falcon: LayerNorm, attention and feed-forward side by side; those of the 40B model have a norm each."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import LayerNormConfig, embed, head, norm, plain_ffn, rope_of, self_attention
from graphsched.ops import gelu
from graphsched.tensor import Tensor


@architecture("falcon", LayerNormConfig)
def falcon(c: LayerNormConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        read = norm(c, x, blk, "attn_norm_2") if "attn_norm_2" in blk else h
        x = x + self_attention(c, blk, read, inp, rope) + plain_ffn(blk, h, gelu)
    return head(c, w, x)  # [T, V]
