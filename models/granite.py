"""Granite 3: Llama with factors on the embedding, the scores, what layers add, and the logits."""

from collections.abc import Iterator
from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    embed,
    feed_forward,
    head,
    norm,
    rope_factors,
    rope_of,
    scaled,
    self_attention,
)
from graphsched.ops import scale
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class GraniteConfig(AttentionConfig, ExpertConfig):
    """A factor of 0 is none."""

    embedding_scale: float = key("embedding_scale", 0.0)
    residual_scale: float = key("residual_scale", 0.0)
    attention_scale: float = key("attention.scale", 0.0)
    logit_scale: float = key("logit_scale")
    rotates: bool = key("rope.scaling.finetuned", True)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if self.logit_scale == 0:
            yield "logit_scale", "a number above 0"


@architecture("granite", GraniteConfig)
def granite(c: GraniteConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "norm") if c.rotates else None, rope_factors(c, w, inp)
    routing = Routing(c.n_expert, c.n_expert_used, normalised=True)
    x = scaled(embed(c, w, inp), c.embedding_scale)  # [T, D]
    for blk in w.blk:
        h, by = norm(c, x, blk, "attn_norm"), c.attention_scale or c.head_dim**-0.5
        x = x + scaled(self_attention(c, blk, h, inp, rope, factors, scale=by), c.residual_scale)
        x = x + scaled(feed_forward(routing, blk, norm(c, x, blk, "ffn_norm")), c.residual_scale)
    return scale(head(c, w, x), by=1.0 / c.logit_scale)  # [T, V]
