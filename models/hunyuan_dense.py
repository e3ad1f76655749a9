"""Hunyuan dense: queries and keys normed behind the rotation, whose base grows with the context asked for."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import AttentionConfig, embed, gated_ffn, head, norm, rope_factors, rope_of
from graphsched.models.hunyuan_moe import self_attention
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class HunyuanDenseConfig(AttentionConfig):
    alpha: float = key("rope.scaling.alpha", 0.0)

    @property
    def base(self) -> float:
        """NTK-aware: the slowest pair turns slower by alpha."""
        stretch = self.alpha ** (self.head_dim / (self.head_dim - 2)) if self.alpha else 1.0
        return self.rope_base * stretch


@architecture("hunyuan-dense", HunyuanDenseConfig)
def hunyuan_dense(c: HunyuanDenseConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "neox", c.base), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope, factors)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
