"""MiniMax-01: lightning attention, which forgets at a fixed rate by head; each eighth layer attends; experts."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from graphsched.arch import QKV, Derived, Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    IntervalConfig,
    Pattern,
    Routing,
    embed,
    experts,
    head,
    heads,
    linear,
    norm,
    rope_of,
    self_attention,
    side_by_side,
    split,
)
from graphsched.ops import clamp, scale, sigmoid, silu, ssm_scan, view
from graphsched.tensor import Tensor

WHOLE_STEP = math.log(math.e - 1)  # softplus of it is 1


@dataclass(frozen=True, kw_only=True)
class MiniMax01Config(IntervalConfig, AttentionConfig, ExpertConfig):
    recurrent: Pattern = key("attention.recurrent_layers", 8, low=1, or_key="full_attention_interval")
    residual_scale: float = key("residual_scale")


def rates(c: MiniMax01Config, w: Weights) -> Iterator[tuple[str, Derived]]:
    """How much each head forgets per token, less in later layers; no file stores it."""
    for blk in w.blk[: c.n_run]:
        if c.recurs(blk):
            made = partial(_rates, c.n_head, 1 - blk.layer / max(c.n_layer - 1, 1) + 1e-5)
            yield from blk.lacking("attn_rates", (c.n_head, 1), made, blk["attn_norm_2"])


def _rates(n: int, of_layer: float, _: NDArray[np.float32]) -> NDArray[np.float32]:
    base = 2.0 ** -(2.0 ** -(math.log2(n) - 3))
    return (-of_layer * base ** np.arange(1, n + 1)).astype(np.float32)[:, None]


@architecture("minimax-01", MiniMax01Config, derive=rates, scaled=(*QKV, "attn_output", "output"))
def minimax_01(c: MiniMax01Config, w: Weights, inp: Inputs) -> Tensor:
    routing, rope = Routing(c.n_expert, c.n_expert_used, normalised=True), rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        h = norm(c, x, blk, "attn_norm")  # what layers add to
        y = lightning(c, blk, h, inp) if c.recurs(blk) else self_attention(c, blk, h, inp, rope)
        h = norm(c, y + scale(h, by=c.residual_scale), blk, "ffn_norm")
        x = experts(routing, blk, h) + scale(h, by=c.residual_scale)
    return head(c, w, x)  # [T, V]


def lightning(c: MiniMax01Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """A scan of values into keys, read by queries, that takes each token whole; normed, then gated. [T, D] -> [T, D]"""
    d, n = c.head_dim, c.n_head * c.head_dim
    q, k, v = split(silu(heads(linear(blk, "attn_qkv", x, 3 * n), c.n_head)), d, d, d)
    steps = clamp(view(x, start=0, stop=c.n_head), low=WHOLE_STEP, high=WHOLE_STEP)
    state = inp.state(blk, "cache_s", c.n_head, d, d)
    y = ssm_scan(state, v, steps, blk.sized("attn_rates", c.n_head, 1), k, q, inp.where)
    y = norm(c, side_by_side(y), blk, "attn_norm_2")
    return linear(blk, "attn_output", sigmoid(linear(blk, "attn_gate", x, n)) * y, c.n_embd)
