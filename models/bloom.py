"""BLOOM: LayerNorm on the embedding too, ALiBi instead of RoPE, GELU without a gate."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import LayerNormConfig, embed, head, norm, plain_ffn, self_attention
from graphsched.ops import gelu
from graphsched.tensor import Tensor


@architecture("bloom", LayerNormConfig)
def bloom(c: LayerNormConfig, w: Weights, inp: Inputs) -> Tensor:
    x = norm(c, embed(c, w, inp), w, "token_embd_norm")  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope=None, max_bias=8.0)
        x = x + plain_ffn(blk, norm(c, x, blk, "ffn_norm"), gelu)
    return head(c, w, x)  # [T, V]
