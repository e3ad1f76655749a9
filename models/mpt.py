"""MPT: LayerNorm, ALiBi instead of RoPE, clipped queries, keys and values, GELU without a gate."""

from dataclasses import dataclass
from functools import partial

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    LayerNormConfig,
    embed,
    embed_at_positions,
    head,
    norm,
    normed_whole,
    plain_ffn,
    self_attention,
)
from graphsched.ops import div, gelu
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class MptConfig(LayerNormConfig):
    clip: float = key("attention.clamp_kqv", 0.0)
    max_bias: float = key("attention.max_alibi_bias", 0.0)


@architecture("mpt", MptConfig)
def mpt(c: MptConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed_at_positions(c, w, inp) if "position_embd" in w else embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h, qk_norm = norm(c, x, blk, "attn_norm"), normed_whole if "attn_q_norm" in blk else None
        x = x + self_attention(c, blk, h, inp, None, qk_norm=qk_norm, clip=c.clip, max_bias=c.max_bias)
        x = x + plain_ffn(blk, norm(c, x, blk, "ffn_norm"), partial(activated, blk))
    return head(c, w, x)  # [T, V]


def activated(blk: Weights, x: Tensor) -> Tensor:
    """gelu(x), over the scales of its columns in files that have them (AWQ). [T, F] -> [T, F]"""
    return div(gelu(x), blk["ffn.act.scales."]) if "ffn.act.scales." in blk else gelu(x)
