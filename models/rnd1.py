"""RND1: Qwen 3 MoE that reads both ways, for diffusion: the tokens of one batch see each other, nothing is kept."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    Routing,
    embed,
    experts,
    head,
    norm,
    normed_heads,
    rope_of,
    self_attention,
)
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Rnd1Config(AttentionConfig, ExpertConfig):
    pass


@architecture("rnd1", Rnd1Config)
def rnd1(c: Rnd1Config, w: Weights, inp: Inputs) -> Tensor:
    rope, routing = rope_of(c, "neox"), Routing(c.n_expert, c.n_expert_used, normalised=True)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        x = x + self_attention(c, blk, h, inp, rope, qk_norm=normed_heads, causal=False)
        x = x + experts(routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
