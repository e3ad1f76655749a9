"""Seed-OSS: Llama with half-split RoPE and biases on queries, keys and values."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gated_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("seed_oss", AttentionConfig)
def seed_oss(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = x + gated_ffn(
            blk, norm(c, x, blk, "post_attention_norm")
        )  # the norm in front of the feed-forward
    return head(c, w, x)  # [T, V]
