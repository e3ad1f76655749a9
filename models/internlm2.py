"""InternLM 2: Llama with an output matrix of its own."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gated_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("internlm2", AttentionConfig)
def internlm2(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "norm")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, tied=False)  # [T, V]
