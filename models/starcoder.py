"""StarCoder: GPT-2 whose query heads share one key and value head."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import LayerNormConfig, embed_at_positions, head, norm, plain_ffn, self_attention
from graphsched.ops import gelu
from graphsched.tensor import Tensor


@architecture("starcoder", LayerNormConfig)
def starcoder(c: LayerNormConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed_at_positions(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope=None)
        x = x + plain_ffn(blk, norm(c, x, blk, "ffn_norm"), gelu)
    return head(c, w, x)  # [T, V]
