"""Gemma 3n: four streams that predict each other (AltUp), a low-rank path beside attention (LAuReL)."""

import math
from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Caches,
    Pattern,
    SharedCachesConfig,
    as_row,
    attention_of_kind,
    embed,
    geglu,
    head,
    heads,
    inputs_of_layers,
    linear,
    mixed,
    norm,
    of_layer_input,
    one,
    others,
    root_mean_square,
    side_by_side,
)
from graphsched.ops import concat, mul_mat, multi_add, relu, repeat, rms_norm, scale, softcap, sum_rows
from graphsched.tensor import Tensor

STREAMS, OWN_CACHES, SPARSE, CUT = 4, 20, 10, 1.6448533535  # no file says these; CUT: 95 % are below it


@dataclass(frozen=True, kw_only=True)
class Gemma3nConfig(SharedCachesConfig):
    pattern: Pattern = key("attention.sliding_window_pattern", 5, low=1)
    n_shared: int = key("attention.shared_kv_layers", lambda c: max(c.n_layer - OWN_CACHES, 0))
    n_per_layer: int = key("embedding_length_per_layer_input", 256, low=1)
    final_cap: float = 30.0


@architecture("gemma3n", Gemma3nConfig)
def gemma3n(c: Gemma3nConfig, w: Weights, inp: Inputs) -> Tensor:
    x = scale(embed(c, w, inp), by=math.sqrt(c.n_embd))  # [T, D]
    layer_inputs, caches = inputs_of_layers(c, w, x, inp), Caches()
    copies = repeat(as_row(x), n=STREAMS - 1)
    streams = beside(x, as_long(projected(c, w, "altup_proj", copies), x))  # [T, N, D]
    for blk in w.blk:
        predicted = predict(c, blk, streams)
        z = layer(c, blk, one(predicted, 0), inp, caches)
        streams = correct(c, blk, predicted, z)
        active = one(streams, 0)
        more = of_layer_input(c, blk, active * blk.sized("altup_correct_scale", c.n_embd), layer_inputs)
        streams = beside(active, others(streams) + as_row(more))
    active = one(streams, 0)
    rest = as_long(projected(c, w, "altup_unembd_proj", others(streams)), active)
    return softcap(head(c, w, scale(active + multi_add(rest), by=1.0 / STREAMS)), cap=c.final_cap)  # [T, V]


def layer(c: Gemma3nConfig, blk: Weights, x: Tensor, inp: Inputs, caches: Caches) -> Tensor:
    """Attention beside a low-rank path, then a dense layer. [T, D] -> [T, D]"""
    h = norm(c, x, blk, "attn_norm")
    low = linear(blk, "laurel_r", linear(blk, "laurel_l", h), c.n_embd)
    laurel = h + norm(c, low, blk, "laurel_post_norm")
    attention = norm(c, attention_of_kind(c, blk, h, inp, caches), blk, "post_attention_norm")
    y = scale(attention + x + laurel, by=0.5**0.5)
    h = norm(c, y, blk, "ffn_norm")
    gate = linear(blk, "ffn_gate", h)
    gate = far_above_mean(gate) if blk.layer < SPARSE else gate
    ffn = linear(blk, "ffn_down", geglu(gate, linear(blk, "ffn_up", h)), c.n_embd)
    return y + norm(c, ffn, blk, "post_ffw_norm")


def far_above_mean(x: Tensor) -> Tensor:
    """How far x is above mean + CUT · standard deviation of its row, at least 0. [T, F] -> [T, F]"""
    n = int(x.shape[1])
    away = x + scale(sum_rows(x), by=-1.0 / n)
    return relu(away + scale(root_mean_square(away), by=-CUT * math.sqrt(n / (n - 1))))


def router(c: Gemma3nConfig, blk: Weights, x: Tensor) -> Tensor:
    """[T, D] -> [T, N], in (-1, 1)"""
    h = scale(norm(c, x, blk, "altup_router_norm"), by=1.0 / c.n_embd)
    return softcap(linear(blk, "altup_router", h, STREAMS), cap=1.0)


def predict(c: Gemma3nConfig, blk: Weights, streams: Tensor) -> Tensor:
    """Each stream plus a mixture of all, by what the first says. [T, N, D] -> [T, N, D]"""
    weights = linear(blk, "altup_predict_coef", router(c, blk, one(streams, 0)), STREAMS**2)
    return streams + mixed(streams, weights)


def correct(c: Gemma3nConfig, blk: Weights, predicted: Tensor, z: Tensor) -> Tensor:
    """Each stream moves with the first, which becomes z up to a factor. [T, N, D], [T, D] -> [T, N, D]"""
    missed = as_row(z + scale(one(predicted, 0), by=-1.0))
    by = linear(blk, "altup_correct_coef", router(c, blk, z), STREAMS)
    moved = repeat(missed, n=STREAMS)
    return predicted + moved + moved * heads(by, STREAMS)


def projected(c: Gemma3nConfig, w: Weights, name: str, x: Tensor) -> Tensor:
    """A matrix for each stream but the first. [T, N - 1, D] -> [T, N - 1, D]"""
    return mul_mat(w.sized(name, STREAMS - 1, c.n_embd, c.n_embd), x)


def as_long(x: Tensor, y: Tensor) -> Tensor:
    """Each row of x as long as y. [T, N, D], [T, D] -> [T, N, D]"""
    return rms_norm(x, eps=0.0) * as_row(root_mean_square(y))


def beside(first: Tensor, rest: Tensor) -> Tensor:
    """[T, D], [T, N - 1, D] -> [T, N, D]"""
    return heads(concat(first, side_by_side(rest)), STREAMS)
