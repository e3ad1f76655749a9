"""SmolLM 3: Llama in which every fourth layer does not rotate."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gated_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("smollm3", AttentionConfig)
def smollm3(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "norm")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        rotates = (blk.layer + 1) % 4 != 0
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope if rotates else None)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
