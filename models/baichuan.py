"""Baichuan: Llama; the 13B model has ALiBi instead of RoPE."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gated_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("baichuan", AttentionConfig)
def baichuan(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, bias = rope_of(c, "norm") if c.n_layer == 32 else None, 8.0 if c.n_layer == 40 else 0.0
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, max_bias=bias)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, tied=False)  # [T, V]
