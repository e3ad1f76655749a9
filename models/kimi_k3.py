"""Kimi K3: Kimi Linear whose inputs are mixtures of earlier streams; latent experts, smoothly limited gates."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from graphsched.arch import Derived, Inputs, Weights, architecture, key
from graphsched.blocks import (
    ChannelDeltaConfig,
    LatentConfig,
    RoutingConfig,
    as_row,
    channel_delta_layer,
    choose,
    embed,
    feed_experts,
    gated_ffn,
    gated_heads,
    head,
    latent_halves,
    latent_heads,
    linear,
    low_rank_forgotten,
    norm,
    stacked,
    weighted_sum,
)
from graphsched.ops import reshape, rms_norm, sigmoid, soft_max, softcap, sum_rows
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class KimiK3Config(ChannelDeltaConfig, LatentConfig, RoutingConfig):
    n_head: int = key("attention.head_count", per_layer=True)
    n_head_kv: int = key("attention.head_count_kv", per_layer=True)
    gating: int = key("expert_gating_func", low=1, high=2)
    bound: float = key("kda.gate_lower_bound", 0.0, low=-1e6, high=0)
    every: int = key("attn_res.block_size")  # layers from one kept stream to the next; 0: none is kept
    cap_gate: float = key("activation.situ_beta", low=1e-6)
    cap_up: float = key("activation.situ_linear_beta")
    rope: None = None

    @property
    def of_layers(self) -> "KimiK3Config":
        """The same with as many heads as any layer has: a list may have 0 for those of the delta rule."""
        return replace(self, n_head=int(np.max(self.n_head)))


def halves(c: KimiK3Config, w: Weights) -> Iterator[tuple[str, Derived]]:
    return latent_halves(c.of_layers, w)


@architecture("kimi-k3", KimiK3Config, derive=halves, scaled=())
def kimi_k3(c: KimiK3Config, w: Weights, inp: Inputs) -> Tensor:
    kept: list[Tensor] = []
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        h = norm(c, seen(c, blk, "attn_res_score", x, kept), blk, "attn_norm")
        mixer = latent_attention if c.at(blk.layer).n_head_kv else delta_layer
        attention = mixer(c.of_layers, blk, h, inp)
        if c.every and blk.layer % c.every == 0:
            kept.append(x)
            x = attention
        else:
            x = x + attention
        x = x + feed_forward(c, blk, norm(c, seen(c, blk, "ffn_res_score", x, kept), blk, "ffn_norm"))
    return head(c, w, seen(c, w, "output_res_score", x, kept), tied=False)  # [T, V]


def seen(c: KimiK3Config, blk: Weights, name: str, x: Tensor, kept: list[Tensor]) -> Tensor:
    """A mixture of the kept streams and x, by a score of each, normed. [T, D] -> [T, D]"""
    if not kept:
        return x
    streams = stacked(*kept, x)  # [T, N, D]
    scores = sum_rows(rms_norm(streams, eps=c.rms_eps) * blk.sized(name, c.n_embd))
    return weighted_sum(streams, soft_max(reshape(scores, shape=scores.shape[:2])))


def latent_attention(c: KimiK3Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """What heads see may have a gate for each element. [T, D] -> [T, D]"""
    out = latent_heads(c, blk, x, inp)
    out = gated_heads(blk, out, x, c.n_head, sigmoid) if "attn_gate" in blk else out
    return linear(blk, "attn_output", out, c.n_embd)


def delta_layer(c: KimiK3Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """What is forgotten may have a bound. [T, D] -> [T, D]"""
    gate = linear(blk, "ssm_g", x, c.n_head * c.kda_dim)
    return channel_delta_layer(c, blk, x, inp, low_rank_forgotten(c, blk, x, c.bound), gate)


def feed_forward(c: KimiK3Config, blk: Weights, x: Tensor) -> Tensor:
    """A dense layer, or experts of a latent row beside a shared one that reads x. [T, D] -> [T, D]"""
    act = partial(situ, c)
    if "ffn_gate_inp" not in blk:
        return gated_ffn(blk, x, activation=act)
    ids, weights = choose(c.routing, blk, x)
    low = linear(blk, "ffn_routed_down", x) if "ffn_routed_down" in blk else x
    y = weighted_sum(feed_experts(blk, as_row(low), ids, c.n_expert, act), weights)
    y = norm(c, y, blk, "ffn_routed_norm") if "ffn_routed_norm" in blk else y
    y = linear(blk, "ffn_routed_up", y, c.n_embd) if "ffn_routed_up" in blk else y
    return y + gated_ffn(blk, x, "_shexp", act) if "ffn_up_shexp" in blk else y


def situ(c: KimiK3Config, gate: Tensor, up: Tensor) -> Tensor:
    """tanh up to its cap, of the gate times its sigmoid, times that of up, if that has a cap"""
    return softcap(gate, cap=c.cap_gate) * sigmoid(gate) * (softcap(up, cap=c.cap_up) if c.cap_up else up)
