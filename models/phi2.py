"""Phi-2: LayerNorm, partial RoPE, attention and feed-forward side by side, a bias on the logits."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import LayerNormConfig, embed, head, norm, plain_ffn, rope_of, self_attention
from graphsched.ops import gelu
from graphsched.tensor import Tensor


@architecture("phi2", LayerNormConfig)
def phi2(c: LayerNormConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        x = x + self_attention(c, blk, h, inp, rope) + plain_ffn(blk, h, gelu)
    return head(c, w, x, bias=True)  # [T, V]
