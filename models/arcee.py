"""Arcee (AFM): Llama with a squared ReLU and no gate in the feed-forward."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    embed,
    head,
    norm,
    plain_ffn,
    relu2,
    rope_factors,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@architecture("arcee", AttentionConfig)
def arcee(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "norm"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + plain_ffn(blk, norm(c, x, blk, "ffn_norm"), relu2)
    return head(c, w, x)  # [T, V]
