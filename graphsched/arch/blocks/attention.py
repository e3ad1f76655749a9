"""Attention with shared key-value heads, and the rotary embedding that the rope.* keys describe."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.arch.blocks.linear import linear, norm, norm_by_row
from graphsched.arch.config import Config, key
from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import (
    Rope,
    clamp,
    flash_attn_ext,
    mul_mat,
    permute,
    reshape,
    rope,
    soft_max,
    view,
)
from graphsched.graph.tensor import Tensor, labelled

Pattern = int | NDArray[np.bool_]
Sections = tuple[()] | NDArray[np.int_]
QkNorm = Callable[[Any, Weights, Tensor, Tensor], tuple[Tensor, Tensor]]
SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class RopeConfig(Config):
    """Keys of the rotary embedding, for attention of any kind."""

    n_head: int = key("attention.head_count", low=1)
    head_dim: int = key("attention.key_length", lambda c: c.n_embd // c.n_head, low=1)
    rms_eps: float = key("attention.layer_norm_rms_epsilon")
    rope_dim: int = key("rope.dimension_count", lambda c: c.head_dim, low=2)
    rope_base: float = key("rope.freq_base", 10000.0, low=1)
    rope_scaling: str = key("rope.scaling.type", "linear")
    rope_factor: float = key("rope.scaling.factor", 1.0, high=1e6, or_key="rope.scale_linear")
    rope_context: int = key("rope.scaling.original_context_length", lambda c: c.n_ctx_train)
    rope_attn_factor: float = key("rope.scaling.attn_factor", 1.0)
    rope_sections: Sections = key("rope.dimension_sections", ())

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: rotated dimensions come in pairs, the scaling is a known one with numbers that fit it."""
        yield from super().wrong()
        if self.rope_dim % 2:
            yield "rope_dim", "an even number"
        if self.rope_scaling not in SCALINGS:
            yield "rope_scaling", f"one of {', '.join(SCALINGS)}"
        if 0 < self.rope_factor < 1e-6:
            yield "rope_factor", "0 or a number from 1e-6"
        if self.rope_scaling == "yarn" and self.rope_context < 1:
            yield "rope_context", "an integer from 1"
        if self.rope_scaling == "yarn" and self.rope_base <= 1:
            yield "rope_base", "a number above 1"


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(RopeConfig):
    """Keys of attention with n_head query heads, of which n_head / n_head_kv share a key and value head."""

    n_head_kv: int = key("attention.head_count_kv", lambda c: c.n_head, low=1)
    v_dim: int = key("attention.value_length", lambda c: c.n_embd // c.n_head, low=1)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: key and value heads divide the heads, rotated dimensions fit a head."""
        yield from super().wrong()
        if self.n_head_kv and self.n_head % self.n_head_kv:
            yield "n_head_kv", f"a divisor of the {self.n_head} heads"
        if self.rope_dim > self.head_dim:
            yield "rope_dim", f"at most the head size {self.head_dim}"


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(AttentionConfig):
    """Attention of models whose norms are LayerNorms."""

    rms_eps: float = 0.0
    ln_eps: float = key("attention.layer_norm_epsilon", low=1e-12)


@dataclass(frozen=True, kw_only=True)
class PerLayerHeadsConfig(AttentionConfig):
    """Attention whose layers differ in their number of heads; a layer's own config is `c.at(layer)`."""

    n_head: int = key("attention.head_count", low=1, per_layer=True)
    n_head_kv: int = key("attention.head_count_kv", lambda c: c.n_head, low=1, per_layer=True)


@dataclass(frozen=True, kw_only=True)
class SlidingConfig(AttentionConfig):
    """Attention that sees a window in some layers: all but each n-th with `pattern` n, or one bool each."""

    window: int = key("attention.sliding_window", 0)
    pattern: Pattern = key("attention.sliding_window_pattern", 2, low=1)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: a pattern by list has a value for each layer."""
        yield from super().wrong()
        if isinstance(self.pattern, np.ndarray) and len(self.pattern) < self.n_layer:
            yield "pattern", f"a number or one value for each of {self.n_layer} layers"


def slides(c: SlidingConfig, blk: Weights, *, full_first: bool = False) -> bool:
    """Whether this layer sees a window only. Of every n layers the last is full, or the first with `full_first`."""
    if isinstance(c.pattern, np.ndarray):
        return bool(c.pattern[blk.layer])
    place = (blk.layer - 1 if full_first else blk.layer) % c.pattern
    return c.window > 0 and place < c.pattern - 1


def rope_of(c: RopeConfig, mode: str, base: float = 0.0) -> Rope:
    """The rotary embedding that the rope.* keys describe; `base` replaces its base unless 0.

    `mrope` and `imrope` are neox whose pairs belong to sections, each rotated by a position of its own (time, height
    and width in an image). In text the first three are the token's position and the fourth is 0.
    """
    yarn, factor = c.rope_scaling == "yarn", c.rope_factor or 1.0
    return Rope(
        n_rot=c.rope_dim,
        base=base or c.rope_base,
        mode="neox" if mode in ("mrope", "imrope") else mode,
        factor=1.0 if c.rope_scaling == "none" else factor,
        yarn=yarn,
        original_context=c.rope_context,
        magnitude=c.rope_attn_factor * (1.0 + 0.1 * math.log(factor) if yarn else 1.0),
        still=still_pairs(c, mode),
    )


def less_yarn(rope: Rope, m: float) -> Rope:
    """With the magnitude of YaRN divided by 1 + 0.1 · m · ln(factor), as models do that have it in the scores."""
    return (
        replace(rope, magnitude=rope.magnitude / (1.0 + 0.1 * m * math.log(rope.factor)))
        if rope.yarn
        else rope
    )


def still_pairs(c: RopeConfig, mode: str) -> tuple[int, ...]:
    """Indices of pairs that text leaves unrotated: the fourth section, and with imrope pairs of no section."""
    sections = [int(n) for n in c.rope_sections]
    if mode not in ("mrope", "imrope") or not any(sections):
        return ()
    total, three = sum(sections), sum(sections[:3])
    at = [j % total for j in range(c.rope_dim // 2)]
    if mode == "mrope":
        return tuple(i for i, j in enumerate(at) if j >= three)
    return tuple(i for i, j in enumerate(at) if j >= 3 * sections[j % 3])


def heads(x: Tensor, n: int) -> Tensor:
    """[T, n · d] -> [T, n, d]"""
    return reshape(x, shape=(x.shape[0], n, x.shape[1] // n))


def side_by_side(x: Tensor) -> Tensor:
    """[T, n, d] -> [T, n · d]"""
    return reshape(x, shape=(x.shape[0], x.shape[1] * x.shape[2]))


def qkv(
    c: AttentionConfig, blk: Weights, x: Tensor, *, bias: bool | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [T, H, Dh], keys [T, Hkv, Dh], values [T, Hkv, Dv].

    They come from attn_q, attn_k and attn_v, or from attn_qkv, whose rows are those of the three in this order.
    bias: whether the file must have biases (True) or must not (False); None takes what is there.
    """
    if "attn_qkv" in blk:
        n = c.n_head * c.head_dim + c.n_head_kv * (c.head_dim + c.v_dim)
        return _qkv_of_one(c, linear(blk, "attn_qkv", x, n, bias=bias))
    q = linear(blk, "attn_q", x, c.n_head * c.head_dim, bias=bias)
    k = linear(blk, "attn_k", x, c.n_head_kv * c.head_dim, bias=bias)
    v = linear(blk, "attn_v", x, c.n_head_kv * c.v_dim, bias=bias)
    return heads(q, c.n_head), heads(k, c.n_head_kv), heads(v, c.n_head_kv)


def _qkv_of_one(c: AttentionConfig, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ends = [0, *accumulate((c.n_head * c.head_dim, c.n_head_kv * c.head_dim, c.n_head_kv * c.v_dim))]
    names = zip(("Qcur", "Kcur", "Vcur"), (c.n_head, c.n_head_kv, c.n_head_kv), pairwise(ends), strict=True)
    q, k, v = (heads(labelled(view(x, start=a, stop=b), name), n) for name, n, (a, b) in names)
    return q, k, v


def normed_heads(c: AttentionConfig, blk: Weights, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, each head normed by itself."""
    return norm(c, q, blk, "attn_q_norm"), norm(c, k, blk, "attn_k_norm")


def normed_whole(c: AttentionConfig, blk: Weights, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, normed over all heads together."""
    q = norm(c, side_by_side(q), blk, "attn_q_norm")
    return heads(q, c.n_head), heads(norm(c, side_by_side(k), blk, "attn_k_norm"), c.n_head_kv)


def normed_by_head(c: AttentionConfig, blk: Weights, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, each head normed by itself, with weights of its own."""
    return norm_by_row(c, q, blk, "attn_q_norm"), norm_by_row(c, k, blk, "attn_k_norm")


def rope_factors(c: RopeConfig, w: Weights, inp: Inputs) -> Tensor | None:
    """The weights [n_rot / 2] that divide the angles, or None. LongRoPE has two sets, chosen by the cache's length."""
    left_out = "rope_factors_short" if inp.n_kv > c.rope_context else "rope_factors_long"
    there = [n for n in ("rope_freqs", "rope_factors_long", "rope_factors_short") if n in w]
    name = next((n for n in there if n != left_out), None)
    return w.sized(name, c.rope_dim // 2) if name else None


def rotated(
    rotation: Rope, q: Tensor, k: Tensor, inp: Inputs, factors: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Queries and keys, each rotated by its token's position; `factors` [n_rot / 2] divide the angles."""
    if factors is None:
        return rope(q, inp.pos, rope=rotation), rope(k, inp.pos, rope=rotation)
    return rope(q, inp.pos, factors, rope=rotation), rope(k, inp.pos, factors, rope=rotation)


def attend(
    c: AttentionConfig,
    blk: Weights,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inp: Inputs,
    *sinks: Tensor,
    **mask: Any,
) -> Tensor:
    """Stores k and v, then attends over the cache; `mask`: attributes of flash_attn_ext. -> [T, H · Dv]"""
    # Layers with a window or chunks keep cells of a kind of their own, not the whole context.
    held = inp.cells_of(window=mask.get("window", 0), chunk=mask.get("chunk", 0))
    keys, values = inp.cache(blk, k, v, held)
    attrs = {"scale": c.head_dim**-0.5, **mask}
    out = flash_attn_ext(q, keys, values, held.where, held.table, *sinks, **attrs)
    return side_by_side(out)


def attend_both_ways(c: AttentionConfig, q: Tensor, k: Tensor, v: Tensor, inp: Inputs) -> Tensor:
    """Attends over this run's tokens, those behind too; nothing is stored. -> [T, H · Dv]"""
    scores = mul_mat(permute(k, axes=(1, 0, 2)), q)  # [T, H, T]
    chances = soft_max(scores, *inp.beside, scale=c.head_dim**-0.5)
    return side_by_side(mul_mat(permute(v, axes=(1, 2, 0)), chances))


def gated_heads(blk: Weights, out: Tensor, x: Tensor, n_head: int, act: Callable[[Tensor], Tensor]) -> Tensor:
    """`out` [T, H · Dv] times act(attn_gate · x), which has one number per head or one per element."""
    gate = act(linear(blk, "attn_gate", x))
    if gate.shape[1] == out.shape[1]:
        return out * gate
    return side_by_side(heads(out, n_head) * heads(gate, n_head))


def self_attention(
    c: AttentionConfig,
    blk: Weights,
    x: Tensor,
    inp: Inputs,
    rope: Rope | None,
    factors: Tensor | None = None,
    *,
    qk_norm: QkNorm | None = None,
    out_bias: bool | None = None,
    clip: float = 0.0,
    causal: bool = True,
    **mask: Any,
) -> Tensor:
    """Projections, norm, rotary embedding (none if `rope` is None), attention, output. [T, D] -> [T, D]

    qk_norm: normed_heads, normed_whole, or a function like them. clip: what projections are at most, either way; 0:
    anything. causal: False where tokens see those behind them, too, and nothing is kept. mask: attributes of
    flash_attn_ext, such as `window`.
    """
    q, k, v = (clamp(t, low=-clip, high=clip) if clip else t for t in qkv(c, blk, x))
    q, k = qk_norm(c, blk, q, k) if qk_norm else (q, k)
    q, k = rotated(rope, q, k, inp, factors) if rope else (q, k)
    out = attend(c, blk, q, k, v, inp, **mask) if causal else attend_both_ways(c, q, k, v, inp)
    return linear(blk, "attn_output", out, c.n_embd, bias=out_bias)
