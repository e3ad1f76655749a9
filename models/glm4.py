"""GLM-4 (0414): norms in front of and behind attention and feed-forward, partial RoPE, gate and up in one matrix."""

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gate_up_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@architecture("glm4", AttentionConfig)
def glm4(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(
        c, "mrope" if any(c.rope_sections[:2]) else "norm"
    )  # models that see images pair the halves
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        attention = self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = x + norm(c, attention, blk, "post_attention_norm")
        x = x + norm(c, gate_up_ffn(blk, norm(c, x, blk, "ffn_norm")), blk, "post_ffw_norm")
    return head(c, w, x)  # [T, V]
