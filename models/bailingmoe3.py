"""Ling 3: Kimi Linear's kinds of layers, with a bound on what is forgotten, rotation, and gated latent attention."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    ChannelDeltaConfig,
    LatentConfig,
    channel_delta_layer,
    embed,
    gated_heads,
    head,
    heads,
    latent_halves,
    latent_heads,
    linear,
    norm,
    rope_of,
)
from graphsched.models.step35 import ClampedConfig, feed_forward
from graphsched.ops import Rope, scale, sigmoid
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class BailingMoe3Config(ChannelDeltaConfig, LatentConfig, ClampedConfig):
    n_head_kv: int = key("attention.head_count_kv", per_layer=True)
    bound: float = key("kda.gate_lower_bound", low=-1e6, high=0)

    @property
    def rope(self) -> Rope | None:
        """Neighbours in pairs, or halves where the file has sections."""
        return rope_of(self, "mrope") if len(self.rope_sections) else super().rope


@architecture("bailingmoe3", BailingMoe3Config, derive=latent_halves, scaled=())
def bailingmoe3(c: BailingMoe3Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        own, h = c.at(blk.layer), norm(c, x, blk, "attn_norm")
        x = x + (latent_attention(own, blk, h, inp) if own.n_head_kv else delta_layer(own, blk, h, inp))
        x = x + feed_forward(own, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def latent_attention(c: BailingMoe3Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Each head times the sigmoid of a number. [T, D] -> [T, D]"""
    out = gated_heads(blk, latent_heads(c, blk, x, inp), x, c.n_head, sigmoid)
    return linear(blk, "attn_output", out, c.n_embd)


def delta_layer(c: BailingMoe3Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """A step forgets e^bound at most. [T, D] -> [T, D]"""
    n = c.n_head * c.kda_dim
    f = heads(linear(blk, "ssm_f_a", x, n) + blk.sized("ssm_dt.bias", n), c.n_head)
    forgotten = scale(sigmoid(f * blk.shaped("ssm_a.", c.n_head, 1)), by=c.bound)
    return channel_delta_layer(c, blk, x, inp, forgotten, linear(blk, "ssm_g_a", x, n))
