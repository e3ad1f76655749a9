"""Mistral 4: DeepSeek-V3's layers, YaRN's magnitude in the rotation, queries that sharpen with distance."""

from collections.abc import Iterator
from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    RoutingConfig,
    TurnedLatentConfig,
    embed,
    feed_forward,
    head,
    latent_halves,
    latent_heads,
    latent_queries,
    linear,
    norm,
)
from graphsched.ops import temperature_scale
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Mistral4Config(TurnedLatentConfig, RoutingConfig):
    temperature: float = key("attention.temperature_scale", 0.0)
    temperature_length: int = key("attention.temperature_length", 0)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if self.temperature and not self.temperature_length:
            yield "temperature_length", "an integer from 1"


@architecture("mistral4", Mistral4Config, derive=latent_halves)
def mistral4(c: Mistral4Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(c: Mistral4Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Latent attention, its queries scaled by position. [T, D] -> [T, D]"""
    q = latent_queries(c, blk, x)
    if c.temperature:
        q = temperature_scale(q, inp.pos, length=c.temperature_length, slope=c.temperature)
    return linear(blk, "attn_output", latent_heads(c, blk, x, inp, q), c.n_embd)
