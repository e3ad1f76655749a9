"""StableLM: LayerNorm, partial RoPE; the 12B model norms queries and keys, its feed-forward runs beside attention."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    LayerNormConfig,
    embed,
    gated_ffn,
    head,
    norm,
    normed_by_head,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@architecture("stablelm", LayerNormConfig)
def stablelm(c: LayerNormConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h, qk_norm = norm(c, x, blk, "attn_norm"), normed_by_head if "attn_q_norm" in blk else None
        x = x + self_attention(c, blk, h, inp, rope, qk_norm=qk_norm)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm") if "ffn_norm" in blk else h)
    return head(c, w, x, tied=False)  # [T, V]
