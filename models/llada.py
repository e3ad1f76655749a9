"""LLaDA: Llama that reads both ways, for diffusion: the tokens of one batch see each other, nothing is kept."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gated_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("llada", AttentionConfig)
def llada(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "norm")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        x = x + self_attention(c, blk, h, inp, rope, out_bias=False, causal=False)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"), bias=False)
    return head(c, w, x)  # [T, V]
