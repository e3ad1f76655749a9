"""Gemma 4: heads of two sizes by kind of layer, shared caches, inputs for each layer; or experts."""

import math
from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    Caches,
    ExpertConfig,
    Pattern,
    SharedCachesConfig,
    as_row,
    attention_of_kind,
    embed,
    feed_experts,
    gated_ffn,
    geglu,
    head,
    inputs_of_layers,
    norm,
    of_layer_input,
    slides,
    weighted_sum,
)
from graphsched.ops import (
    clamp,
    div,
    get_rows,
    mul_mat,
    rms_norm,
    scale,
    soft_max,
    softcap,
    sum_rows,
    top_k,
)
from graphsched.tensor import Tensor

SMALLEST = 6.103515625e-5  # what the sum of expert weights is at least


@dataclass(frozen=True, kw_only=True)
class Gemma4Config(SharedCachesConfig, ExpertConfig):
    pattern: Pattern = key("attention.sliding_window_pattern", low=1)
    head_dim: int = key("attention.key_length", low=1)
    head_dim_swa: int = key("attention.key_length_swa", low=1)
    final_cap: float = key("final_logit_softcapping", 30.0)


@architecture("gemma4", Gemma4Config, scaled=EVERY_SCALE)
def gemma4(c: Gemma4Config, w: Weights, inp: Inputs) -> Tensor:
    x = scale(embed(c, w, inp), by=math.sqrt(c.n_embd))  # [T, D]
    layer_inputs = inputs_of_layers(c, w, x, inp) if c.n_per_layer else None  # [T, L · P]
    caches: Caches = {}
    for blk in w.blk[: c.n_run]:
        factors = () if slides(c, blk) else (w.sized("rope_freqs", c.rope_dim // 2),)
        h = norm(c, x, blk, "attn_norm")
        attention = attention_of_kind(c.at(blk.layer), blk, h, inp, caches, *factors)
        x = x + norm(c, attention, blk, "post_attention_norm")
        x = x + norm(c, feed_forward(c, blk, x), blk, "post_ffw_norm")
        if layer_inputs is not None:
            x = x + of_layer_input(c, blk, x, layer_inputs)
        if "layer_output_scale" in blk:
            x = x * blk.sized("layer_output_scale", 1)
    logits = head(c, w, x)  # [T, V]
    return softcap(logits, cap=c.final_cap) if c.final_cap else logits


def feed_forward(c: Gemma4Config, blk: Weights, x: Tensor) -> Tensor:
    """A dense layer, in the MoE model with experts beside it, each normed on its own. [T, D] -> [T, D]"""
    dense = gated_ffn(blk, norm(c, x, blk, "ffn_norm"), activation=geglu)
    if "ffn_gate_inp" not in blk:
        return dense
    moe = experts(c, blk, x, norm(c, x, blk, "pre_ffw_norm_2"))
    return norm(c, dense, blk, "post_ffw_norm_1") + norm(c, moe, blk, "post_ffw_norm_2")


def experts(c: Gemma4Config, blk: Weights, x: Tensor, h: Tensor) -> Tensor:
    """Chosen by the stream, normed without weights and scaled; each expert's result has a scale of its own."""
    seen = scale(rms_norm(x, eps=c.rms_eps), by=c.n_embd**-0.5) * blk.sized("ffn_gate_inp.scale", c.n_embd)
    probs = soft_max(mul_mat(blk.sized("ffn_gate_inp", c.n_expert, c.n_embd), seen))  # [T, E]
    ids = top_k(probs, k=c.n_expert_used)
    total = clamp(sum_rows(get_rows(probs, ids)), low=SMALLEST, high=math.inf)
    weights = div(get_rows(probs * blk.sized("ffn_down_exps.scale", c.n_expert), ids), total)
    return weighted_sum(feed_experts(blk, as_row(h), ids, c.n_expert, geglu), weights)
