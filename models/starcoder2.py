"""StarCoder 2: LayerNorm and biases everywhere, RoPE, GELU without a gate."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import LayerNormConfig, embed, head, norm, plain_ffn, rope_of, self_attention
from graphsched.ops import gelu
from graphsched.tensor import Tensor


@architecture("starcoder2", LayerNormConfig)
def starcoder2(c: LayerNormConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = x + plain_ffn(blk, norm(c, x, blk, "ffn_norm"), gelu)
    return head(c, w, x)  # [T, V]
