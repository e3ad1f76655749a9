"""LFM2: gated convolutions over three tokens, attention between them."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    HybridHeadsConfig,
    convolved,
    embed,
    gated_ffn,
    head,
    linear,
    norm,
    normed_heads,
    rope_of,
    self_attention,
    split,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Lfm2Config(HybridHeadsConfig):
    kernel: int = key("shortconv.l_cache", low=2)
    window: int = key("attention.sliding_window", 0)


@architecture("lfm2", Lfm2Config)
def lfm2(c: Lfm2Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + mixer(c.at(blk.layer), blk, norm(c, x, blk, "attn_norm"), inp, window=c.window)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, final="token_embd_norm")  # [T, V]


def mixer(c: Lfm2Config, blk: Weights, x: Tensor, inp: Inputs, *, window: int = 0) -> Tensor:
    """Attention in layers with key heads, else a short convolution. [T, D] -> [T, D]"""
    if c.n_head_kv:
        return self_attention(c, blk, x, inp, rope_of(c, "neox"), qk_norm=normed_heads, window=window)
    b, gate, x = split(linear(blk, "shortconv.in_proj", x, 3 * c.n_embd), *[c.n_embd] * 3)
    return linear(blk, "shortconv.out_proj", gate * convolved(blk, b * x, inp, c.kernel, "shortconv.conv"))
