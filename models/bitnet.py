"""BitNet: ternary matrices with a norm in front of the last one of each sub-layer."""

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, attend, embed, head, linear, norm, qkv, rope_of, rotated
from graphsched.ops import silu
from graphsched.tensor import Tensor


@architecture("bitnet", AttentionConfig, scaled=EVERY_SCALE)
def bitnet(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + feed_forward(c, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, tied=True)  # [T, V]


def self_attention(
    c: AttentionConfig, blk: Weights, x: Tensor, inp: Inputs, factors: Tensor | None = None
) -> Tensor:
    """Attention with a norm in front of the output matrix. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x)
    q, k = rotated(rope_of(c, "neox"), q, k, inp, factors)
    out = norm(c, attend(c, blk, q, k, v, inp), blk, "attn_sub_norm")
    return linear(blk, "attn_output", out, c.n_embd)


def feed_forward(c: AttentionConfig, blk: Weights, x: Tensor) -> Tensor:
    """SiLU in the gate, a norm in front of ffn_down. [T, D] -> [T, D]"""
    gate = linear(blk, "ffn_gate", x)
    up = linear(blk, "ffn_up", x, gate.shape[1])
    return linear(blk, "ffn_down", norm(c, silu(gate) * up, blk, "ffn_sub_norm"), c.n_embd)
