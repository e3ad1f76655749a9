"""Nemotron-3: Nemotron-H's layers, with experts that read a narrower row, and a shared one that does not."""

from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    RoutingConfig,
    as_row,
    choose,
    embed,
    expert_linear,
    head,
    linear,
    norm,
    plain_ffn,
    relu2,
    weighted_sum,
)
from graphsched.models.nemotron_h import NemotronHConfig, mixer
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class NemotronHMoeConfig(NemotronHConfig, RoutingConfig):
    n_expert_used: int = key("expert_used_count", 0, per_layer=True)
    gating: int = 2


@architecture("nemotron_h_moe", NemotronHMoeConfig, scaled=EVERY_SCALE)
def nemotron_h_moe(c: NemotronHMoeConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        h, own = norm(c, x, blk, "attn_norm"), c.at(blk.layer)
        x = x + (feed_forward(own, blk, h) if own.n_ffn else mixer(own, blk, h, inp))
    return head(c, w, x)  # [T, V]


def feed_forward(c: NemotronHMoeConfig, blk: Weights, x: Tensor) -> Tensor:
    """A dense layer, or the sum of experts and a shared one. [T, D] -> [T, D]"""
    if "ffn_gate_inp" not in blk:
        return plain_ffn(blk, x, relu2)
    return experts(c, blk, x) + plain_ffn(blk, x, relu2, "_shexp")


def experts(c: NemotronHMoeConfig, blk: Weights, x: Tensor) -> Tensor:
    """Experts chosen by the whole row; they work on a latent, where the file has its matrices. [T, D] -> [T, D]"""
    ids, weights = choose(c.routing, blk, x)
    latent = linear(blk, "ffn_latent_down", x) if "ffn_latent_down" in blk else x
    up = expert_linear(blk, "ffn_up_exps", as_row(latent), ids, (c.n_expert, None))
    down = expert_linear(blk, "ffn_down_exps", relu2(up), ids, (c.n_expert, latent.shape[1]))
    y = weighted_sum(down, weights)
    return linear(blk, "ffn_latent_up", y, c.n_embd) if "ffn_latent_up" in blk else y
