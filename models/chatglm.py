"""ChatGLM: partial RoPE in pairs, biases on queries, keys and values, gate and up in one matrix."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gate_up_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("chatglm", AttentionConfig)
def chatglm(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "norm")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = x + gate_up_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
