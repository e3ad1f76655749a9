"""Qwen3.5-MoE: Qwen3.5's layers, with experts and a gated shared one."""

from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture
from graphsched.blocks import ExpertConfig, Routing, embed, experts_and_gated, head, norm
from graphsched.models.qwen35 import Qwen35Config, mixer
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Qwen35MoeConfig(Qwen35Config, ExpertConfig):
    pass


@architecture("qwen35moe", Qwen35MoeConfig, scaled=EVERY_SCALE)
def qwen35moe(c: Qwen35MoeConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used, normalised=True)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        x = x + mixer(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + experts_and_gated(routing, blk, norm(c, x, blk, "post_attention_norm"))
    return head(c, w, x)  # [T, V]
