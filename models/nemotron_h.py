"""Nemotron-H: each layer one of three: Mamba 2, attention that does not rotate, or a feed-forward of squared ReLU."""

from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    HybridHeadsConfig,
    Mamba2Config,
    embed,
    head,
    mamba2_layer,
    norm,
    plain_ffn,
    relu2,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class NemotronHConfig(Mamba2Config, HybridHeadsConfig):
    rms_eps: float = key("attention.layer_norm_rms_epsilon", or_key="attention.layer_norm_epsilon")
    n_ffn: int = key("feed_forward_length", per_layer=True)


@architecture("nemotron_h", NemotronHConfig, scaled=EVERY_SCALE)
def nemotron_h(c: NemotronHConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h, own = norm(c, x, blk, "attn_norm"), c.at(blk.layer)
        x = x + (plain_ffn(blk, h, relu2) if own.n_ffn else mixer(own, blk, h, inp))
    return head(c, w, x)  # [T, V]


def mixer(c: NemotronHConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Attention in layers with key heads, else Mamba 2. [T, D] -> [T, D]"""
    return self_attention(c, blk, x, inp, None) if c.n_head_kv else mamba2_layer(c, blk, x, inp)
