"""Attention with shared key-value heads, and the rotary embedding that the rope.* keys describe."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.arch.blocks.linear import linear
from graphsched.arch.config import Config, key
from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import Rope, flash_attn_ext, reshape, rope
from graphsched.graph.tensor import Tensor

Pattern = int | NDArray[np.bool_]
SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, kw_only=True)
class RopeConfig(Config):
    n_head: int = key("attention.head_count", low=1)
    head_dim: int = key("attention.key_length", lambda c: c.n_embd // c.n_head, low=1)
    rms_eps: float = key("attention.layer_norm_rms_epsilon")
    rope_dim: int = key("rope.dimension_count", lambda c: c.head_dim, low=2)
    rope_base: float = key("rope.freq_base", 10000.0, low=1)
    rope_scaling: str = key("rope.scaling.type", "linear")
    rope_factor: float = key("rope.scaling.factor", 1.0, high=1e6, or_key="rope.scale_linear")
    rope_context: int = key("rope.scaling.original_context_length", lambda c: c.n_ctx_train)
    rope_attn_factor: float = key("rope.scaling.attn_factor", 1.0)

    def wrong(self) -> Iterator[tuple[str, str]]:
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
    n_head_kv: int = key("attention.head_count_kv", lambda c: c.n_head, low=1)
    v_dim: int = key("attention.value_length", lambda c: c.n_embd // c.n_head, low=1)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if self.n_head % self.n_head_kv:
            yield "n_head_kv", f"a divisor of the {self.n_head} heads"
        if self.rope_dim > self.head_dim:
            yield "rope_dim", f"at most the head size {self.head_dim}"


@dataclass(frozen=True, kw_only=True)
class SlidingConfig(AttentionConfig):
    """Attention that sees a window in some layers: all but each n-th with `pattern` n, or one bool each."""

    window: int = key("attention.sliding_window", 0)
    pattern: Pattern = key("attention.sliding_window_pattern", 2, low=1)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if isinstance(self.pattern, np.ndarray) and len(self.pattern) < self.n_layer:
            yield "pattern", f"a number or one value for each of {self.n_layer} layers"


def slides(c: SlidingConfig, blk: Weights) -> bool:
    """Whether this layer sees a window only."""
    if isinstance(c.pattern, np.ndarray):
        return bool(c.pattern[blk.layer])
    return c.window > 0 and blk.layer % c.pattern < c.pattern - 1


def rope_of(c: RopeConfig, mode: str, base: float = 0.0) -> Rope:
    """The rotary embedding that the rope.* keys describe, or that with another base."""
    yarn, factor = c.rope_scaling == "yarn", c.rope_factor or 1.0
    return Rope(
        n_rot=c.rope_dim,
        base=base or c.rope_base,
        mode=mode,
        factor=1.0 if c.rope_scaling == "none" else factor,
        yarn=yarn,
        original_context=c.rope_context,
        magnitude=c.rope_attn_factor * (1.0 + 0.1 * math.log(factor) if yarn else 1.0),
    )


def heads(x: Tensor, n: int) -> Tensor:
    """[T, n · d] -> [T, n, d]"""
    return reshape(x, shape=(x.shape[0], n, x.shape[1] // n))


def side_by_side(x: Tensor) -> Tensor:
    """[T, n, d] -> [T, n · d]"""
    return reshape(x, shape=(x.shape[0], x.shape[1] * x.shape[2]))


def qkv(
    c: AttentionConfig, blk: Weights, x: Tensor, *, bias: bool | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [T, H, Dh], keys [T, Hkv, Dh], values [T, Hkv, Dv]; `bias`: there must be one or none."""
    q = linear(blk, "attn_q", x, c.n_head * c.head_dim, bias=bias)
    k = linear(blk, "attn_k", x, c.n_head_kv * c.head_dim, bias=bias)
    v = linear(blk, "attn_v", x, c.n_head_kv * c.v_dim, bias=bias)
    return heads(q, c.n_head), heads(k, c.n_head_kv), heads(v, c.n_head_kv)


def turned(
    turn: Rope, q: Tensor, k: Tensor, inp: Inputs, factors: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Queries and keys at their positions; `factors` divide the angles."""
    if factors is None:
        return rope(q, inp.pos, rope=turn), rope(k, inp.pos, rope=turn)
    return rope(q, inp.pos, factors, rope=turn), rope(k, inp.pos, factors, rope=turn)


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
    """Attention over what is cached, heads side by side; `mask` has the op's attributes. -> [T, H · Dv]"""
    held = inp.cells_of(window=mask.get("window", 0), chunk=mask.get("chunk", 0))
    keys, values = inp.cache(blk, k, v, held)
    attrs = {"scale": c.head_dim**-0.5, **mask}
    out = flash_attn_ext(q, keys, values, inp.where, held.cells, *sinks, **attrs)
    return side_by_side(out)


def self_attention(
    c: AttentionConfig, blk: Weights, x: Tensor, inp: Inputs, turn: Rope, factors: Tensor | None = None
) -> Tensor:
    """The plain form: projections, rotation, attention, output. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x)
    q, k = turned(turn, q, k, inp, factors)
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp), c.n_embd)
