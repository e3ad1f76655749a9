"""Nemotron: LayerNorm, partial RoPE, squared ReLU without a gate."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import LayerNormConfig, embed, head, norm, plain_ffn, relu2, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("nemotron", LayerNormConfig)
def nemotron(c: LayerNormConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = x + plain_ffn(blk, norm(c, x, blk, "ffn_norm"), relu2)
    return head(c, w, x, tied=False)  # [T, V]
