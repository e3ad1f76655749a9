"""BitNet b1.58 2B-4T: BitNet with grouped heads and a squared ReLU."""

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, head, linear, norm
from graphsched.models.bitnet import self_attention
from graphsched.ops import relu, sqr
from graphsched.tensor import Tensor


@architecture("bitnet-b1.58", AttentionConfig, scaled=EVERY_SCALE)
def bitnet_b1_58(c: AttentionConfig, w: Weights, inp: Inputs) -> Tensor:
    factors = w.sized("rope_freqs", c.rope_dim // 2) if "rope_freqs" in w else None
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, factors)
        x = x + feed_forward(c, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def feed_forward(c: AttentionConfig, blk: Weights, x: Tensor) -> Tensor:
    """Squared ReLU in the gate, a norm in front of ffn_down. [T, D] -> [T, D]"""
    gate = linear(blk, "ffn_gate", x)
    up = linear(blk, "ffn_up", x, gate.shape[1])
    return linear(blk, "ffn_down", norm(c, sqr(relu(gate)) * up, blk, "ffn_sub_norm"), c.n_embd)
