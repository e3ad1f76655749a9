"""Qwen3-Next: Qwen3.5-MoE's layers in the order of its checkpoints: what belongs to a key head stands together."""

from dataclasses import dataclass

from graphsched.arch import QKV, Inputs, Weights, architecture
from graphsched.blocks import (
    DeltaConfig,
    ExpertConfig,
    Projected,
    Routing,
    delta_layer,
    embed,
    experts_and_gated,
    head,
    heads,
    linear,
    norm,
    query_gated_attention,
    rope_of,
    side_by_side,
    split,
)
from graphsched.ops import concat, cont
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Qwen3NextConfig(DeltaConfig, ExpertConfig):
    pass


@architecture("qwen3next", Qwen3NextConfig, scaled=(*QKV, "attn_output", "output"))
def qwen3next(c: Qwen3NextConfig, w: Weights, inp: Inputs) -> Tensor:
    routing = Routing(c.n_expert, c.n_expert_used, normalised=True)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        x = x + mixer(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + experts_and_gated(routing, blk, norm(c, x, blk, "post_attention_norm"))
    return head(c, w, x)  # [T, V]


def mixer(c: Qwen3NextConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """The delta rule, or attention. [T, D] -> [T, D]"""
    if not c.recurs(blk):
        return query_gated_attention(c, blk, x, inp, rope_of(c, "neox"))
    shared = c.n_value // c.n_key
    beta, alpha = by_key_head(c, linear(blk, "ssm_ba", x, 2 * c.n_value), shared, shared)
    return delta_layer(c, blk, Projected(*queries_to_gates(c, blk, x), beta, alpha), inp, tiled=False)


def queries_to_gates(c: Qwen3NextConfig, blk: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    """[queries | keys | values] and gates, from two matrices or from the one of older files."""
    if "ssm_in" not in blk:
        return linear(blk, "attn_qkv", x, c.channels), linear(blk, "attn_gate", x, c.inner)
    d, of_values = c.state_dim, c.inner // c.n_key
    q, k, v, z = by_key_head(c, linear(blk, "ssm_in", x, c.channels + c.inner), d, d, of_values, of_values)
    return concat(concat(q, k), v), z


def by_key_head(c: Qwen3NextConfig, x: Tensor, *widths: int) -> list[Tensor]:
    """What x has of each kind, width by width for each key head, with all heads of a kind side by side."""
    return [side_by_side(cont(part)) for part in split(heads(x, c.n_key), *widths)]
