"""Gemma 4: heads of two sizes by kind of layer, unscaled scores, caches that later layers share, inputs for each layer
from a second embedding; in the MoE model experts beside the dense layer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from graphsched.arch import EVERY_SCALE, Inputs, Weights, architecture, key
from graphsched.blocks import (
    ExpertConfig,
    Pattern,
    PerLayerHeadsConfig,
    SlidingConfig,
    as_row,
    embed,
    feed_experts,
    gated_ffn,
    geglu,
    head,
    heads,
    linear,
    norm,
    rope_of,
    side_by_side,
    slides,
    weighted_sum,
)
from graphsched.ops import (
    Rope,
    clamp,
    div,
    flash_attn_ext,
    gelu,
    get_rows,
    mul_mat,
    rms_norm,
    rope,
    scale,
    soft_max,
    softcap,
    sum_rows,
    top_k,
    view,
)
from graphsched.tensor import Tensor

# Keys, values and cells of the last layer of each kind that has its own: of those that slide (True), of full ones.
Caches = dict[bool, tuple[Tensor, Tensor, Tensor, Tensor]]
SMALLEST = 6.103515625e-5  # what the sum of expert weights is at least


@dataclass(frozen=True, kw_only=True)
class Gemma4Config(PerLayerHeadsConfig, SlidingConfig, ExpertConfig):
    window: int = key("attention.sliding_window", low=1)
    pattern: Pattern = key("attention.sliding_window_pattern", low=1)
    head_dim: int = key("attention.key_length", low=1)
    head_dim_swa: int = key("attention.key_length_swa", low=1)
    rope_dim_swa: int = key("rope.dimension_count_swa", lambda c: c.head_dim_swa, low=2)
    base_swa: float = key("rope.freq_base_swa", 10000.0, low=1)
    n_shared: int = key("attention.shared_kv_layers", 0)
    n_per_layer: int = key("embedding_length_per_layer_input", 0)
    final_cap: float = key("final_logit_softcapping", 30.0)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if self.n_shared >= self.n_layer:
            yield "n_shared", f"less than the {self.n_layer} layers"


@architecture("gemma4", Gemma4Config, scaled=EVERY_SCALE)
def gemma4(c: Gemma4Config, w: Weights, inp: Inputs) -> Tensor:
    x = scale(embed(c, w, inp), by=math.sqrt(c.n_embd))  # [T, D]
    layer_inputs = side_by_side(inputs_of_layers(c, w, x, inp)) if c.n_per_layer else None  # [T, L · P]
    caches: Caches = {}
    for blk in w.blk[: c.n_run]:
        attention = self_attention(c.at(blk.layer), blk, norm(c, x, blk, "attn_norm"), inp, w, caches)
        x = x + norm(c, attention, blk, "post_attention_norm")
        x = x + norm(c, feed_forward(c, blk, x), blk, "post_ffw_norm")
        if layer_inputs is not None:
            e = view(layer_inputs, start=blk.layer * c.n_per_layer, stop=(blk.layer + 1) * c.n_per_layer)
            gated = gelu(linear(blk, "inp_gate", x, c.n_per_layer)) * e
            x = x + norm(c, linear(blk, "proj", gated, c.n_embd), blk, "post_norm")
        if "layer_output_scale" in blk:
            x = x * blk.sized("layer_output_scale", 1)
    logits = head(c, w, x)  # [T, V]
    return softcap(logits, cap=c.final_cap) if c.final_cap else logits


def inputs_of_layers(c: Gemma4Config, w: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """What each layer adds of the token: half from its embedding, half from a second one. -> [T, L, P]"""
    n, width = c.n_layer, c.n_layer * c.n_per_layer
    projected = heads(scale(linear(w, "per_layer_model_proj", x, width), by=c.n_embd**-0.5), n)
    looked_up = get_rows(w.sized("per_layer_token_embd", None, width), inp.tokens)
    both = norm(c, projected, w, "per_layer_proj_norm") + heads(scale(looked_up, by=c.n_per_layer**0.5), n)
    return scale(both, by=0.5**0.5)


def self_attention(
    c: Gemma4Config, blk: Weights, x: Tensor, inp: Inputs, w: Weights, caches: Caches
) -> Tensor:
    """Heads sized by kind of layer; layers without keys of their own read `caches`. [T, D] -> [T, D]"""
    near = slides(c, blk)
    dim = c.head_dim_swa if near else c.head_dim
    rotation = Rope(c.rope_dim_swa, c.base_swa, "neox") if near else rope_of(c, "neox")
    factors = () if near else (w.sized("rope_freqs", c.rope_dim // 2),)
    q = norm(c, heads(linear(blk, "attn_q", x, c.n_head * dim), c.n_head), blk, "attn_q_norm")
    q = rope(q, inp.pos, *factors, rope=rotation)
    if blk.layer < c.n_layer - c.n_shared:
        k = heads(linear(blk, "attn_k", x, c.n_head_kv * dim), c.n_head_kv)
        v = heads(linear(blk, "attn_v", x, c.n_head_kv * dim), c.n_head_kv) if "attn_v" in blk else k
        k = rope(norm(c, k, blk, "attn_k_norm"), inp.pos, *factors, rope=rotation)
        held = inp.cells_of(window=c.window if near else 0)
        caches[near] = *inp.cache(blk, k, rms_norm(v, eps=c.rms_eps), held), held.where, held.table
    keys, values, where, table = caches[near]
    out = flash_attn_ext(q, keys, values, where, table, scale=1.0, window=c.window if near else 0)
    return linear(blk, "attn_output", side_by_side(out), c.n_embd)


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
