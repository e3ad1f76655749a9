"""Step-3.5: windows by list, layers with heads of their own, a gate for each head, clamped feed-forwards."""

from dataclasses import dataclass, replace
from functools import partial

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    PerLayerHeadsConfig,
    RoutingConfig,
    SlidingConfig,
    attend,
    embed,
    experts,
    gated_ffn,
    gated_heads,
    head,
    linear,
    norm,
    normed_heads,
    qkv,
    rope_of,
    rotated,
    slides,
)
from graphsched.ops import Rope, clamp, sigmoid, silu, view
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class ClampedConfig(RoutingConfig):
    """Keys of experts whose activations have limits; 0 is none."""

    clamp: float = key("swiglu_clamp_exp", 0.0, per_layer=True)
    clamp_shared: float = key("swiglu_clamp_shexp", 0.0, per_layer=True)  # of dense layers, too


@dataclass(frozen=True, kw_only=True)
class Step35Config(PerLayerHeadsConfig, SlidingConfig, ClampedConfig):
    window: int = key("attention.sliding_window", low=1)
    pattern: Pattern = key("attention.sliding_window_pattern", low=1)
    base_swa: float = key("rope.freq_base_swa", 10000.0, low=1)
    rope_dim_swa: int = key("rope.dimension_count_swa", lambda c: c.rope_dim, low=2)
    gating: int = key("expert_gating_func", 2, low=1, high=2)


@architecture("step35", Step35Config)
def step35(c: Step35Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        x = x + self_attention(c.at(blk.layer), blk, norm(c, x, blk, "attn_norm"), inp, w)
        x = x + feed_forward(c.at(blk.layer), blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]


def self_attention(c: Step35Config, blk: Weights, x: Tensor, inp: Inputs, w: Weights) -> Tensor:
    """Heads and rotary embedding by kind of layer; heads may be gated. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x)
    q, k = normed_heads(c, blk, q, k) if "attn_q_norm" in blk else (q, k)
    if near := slides(c, blk):
        q, k = rotated(Rope(c.rope_dim_swa, c.base_swa, "neox"), q, k, inp)
    else:  # full layers rotate half of the dimensions
        factors = view(w.rope_freqs, start=0, stop=c.rope_dim // 4) if "rope_freqs" in w else None
        q, k = rotated(replace(rope_of(c, "neox"), n_rot=c.rope_dim // 2), q, k, inp, factors)
    out = attend(c, blk, q, k, v, inp, window=c.window if near else 0)
    out = gated_heads(blk, out, x, c.n_head, sigmoid) if "attn_gate" in blk else out
    return linear(blk, "attn_output", out, c.n_embd)


def feed_forward(c: ClampedConfig, blk: Weights, x: Tensor) -> Tensor:
    """A dense layer, or experts and a shared one, with clamped activations. [T, D] -> [T, D]"""
    shared = partial(clamped, limit=c.clamp_shared)
    if "ffn_gate_inp" not in blk:
        return gated_ffn(blk, x, activation=shared)
    routed = experts(c.routing, blk, x, activation=partial(clamped, limit=c.clamp))
    return routed + gated_ffn(blk, x, "_shexp", activation=shared)


def clamped(gate: Tensor, up: Tensor, limit: float) -> Tensor:
    """min(silu(gate), limit) · up, that within ±limit; without limits at 0"""
    if limit <= 1e-6:
        return silu(gate) * up
    return clamp(silu(gate), low=-float("inf"), high=limit) * clamp(up, low=-limit, high=limit)
