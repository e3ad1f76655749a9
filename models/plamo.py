"""PLaMo: Llama with attention and feed-forward side by side."""

from dataclasses import replace

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gated_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("plamo", AttentionConfig)
def plamo(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = replace(rope_of(c, "neox"), n_rot=c.head_dim)  # the whole head, whatever the key says
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        x = x + self_attention(c, blk, h, inp, rope) + gated_ffn(blk, h)
    return head(c, w, x, tied=False)  # [T, V]
