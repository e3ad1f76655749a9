"""The gated delta rule: a matrix per head, in which keys find values that later tokens correct."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from graphsched.arch.blocks.attention import (
    AttentionConfig,
    attend,
    heads,
    normed_heads,
    rotated,
    side_by_side,
)
from graphsched.arch.blocks.ffn import swiglu
from graphsched.arch.blocks.hybrid import IntervalConfig, RecurrentConfig, convolved
from graphsched.arch.blocks.linear import linear, norm
from graphsched.arch.config import key
from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import Rope, gated_delta_net, l2_norm, scale, sigmoid, silu, softplus, view
from graphsched.graph.tensor import Tensor, labelled


@dataclass(frozen=True, kw_only=True)
class DeltaConfig(IntervalConfig, RecurrentConfig, AttentionConfig):
    """Keys of layers with n_value heads, of which n_value / n_key share a query and key head; others attend."""

    n_key: int = key("ssm.group_count", low=1)
    n_value: int = key("ssm.time_step_rank", low=1)
    state_dim: int = key("ssm.state_size", low=1)  # of keys and of values
    inner: int = key("ssm.inner_size", low=1)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: key heads divide the value heads, which are all of the inner size."""
        yield from super().wrong()
        if self.n_value % self.n_key:
            yield "n_key", f"a divisor of the {self.n_value} value heads"
        if self.inner != self.n_value * self.state_dim:
            yield "inner", f"{self.n_value} heads of {self.state_dim}"

    @property
    def channels(self) -> int:
        """Of the convolution: queries, keys and values."""
        return 2 * self.n_key * self.state_dim + self.inner


class Projected(NamedTuple):
    """What a layer of the delta rule computes of each token first."""

    qkv: Tensor  # [T, channels]: queries, keys and values
    gate: Tensor  # [T, inner]: of the output
    beta: Tensor  # [T, n_value]: how much of what a key finds is corrected, before the sigmoid
    alpha: Tensor  # [T, n_value]: how much is forgotten, before the softplus


def delta_layer(c: DeltaConfig, blk: Weights, p: Projected, inp: Inputs, *, tiled: bool) -> Tensor:
    """Convolution, delta rule, norm by head, gate, output. -> [T, D]

    tiled: value head j has key head j % n_key, else those that share one stand together.
    """
    n = c.n_key * c.state_dim
    mixed = silu(convolved(blk, p.qkv, inp, c.kernel))
    q, k = (
        labelled(l2_norm(heads(view(mixed, start=at, stop=at + n), c.n_key), eps=c.rms_eps), name)
        for name, at in (("q_conv_predelta", 0), ("k_conv_predelta", n))
    )
    v = heads(view(mixed, start=2 * n, stop=c.channels), c.n_value)
    forgotten = softplus(p.alpha + blk.sized("ssm_dt.bias", c.n_value)) * blk.shaped("ssm_a.", c.n_value)
    state = inp.state(blk, "cache_s", c.n_value, c.state_dim, c.state_dim)
    out = gated_delta_net(state, q, k, v, forgotten, sigmoid(p.beta), inp.where, tiled=tiled)
    out = swiglu(heads(p.gate, c.n_value), norm(c, out, blk, "ssm_norm"))
    return linear(blk, "ssm_out", side_by_side(out), c.n_embd)


def query_gated_attention(c: AttentionConfig, blk: Weights, x: Tensor, inp: Inputs, rope: Rope) -> Tensor:
    """Normed heads; attn_q has, head by head, the gates of the output behind the queries. [T, D] -> [T, D]"""
    both = heads(linear(blk, "attn_q", x, 2 * c.n_head * c.head_dim), c.n_head)
    q, gate = view(both, start=0, stop=c.head_dim), view(both, start=c.head_dim, stop=2 * c.head_dim)
    k = heads(linear(blk, "attn_k", x, c.n_head_kv * c.head_dim), c.n_head_kv)
    v = heads(linear(blk, "attn_v", x, c.n_head_kv * c.v_dim), c.n_head_kv)
    q, k = rotated(rope, *normed_heads(c, blk, q, k), inp)
    out = sigmoid(gate) * heads(attend(c, blk, q, k, v, inp), c.n_head)
    return linear(blk, "attn_output", side_by_side(out), c.n_embd)


@dataclass(frozen=True, kw_only=True)
class ChannelDeltaConfig(RecurrentConfig):
    """Keys of a delta rule that forgets by channel of the keys (KDA): as many keys as values, of kda_dim each."""

    n_head: int = key("attention.head_count", low=1)
    rms_eps: float = key("attention.layer_norm_rms_epsilon")
    kda_dim: int = key("kda.head_dim", low=1)
    l2_eps: float = key("attention.layer_norm_rms_epsilon")


def low_rank_forgotten(c: ChannelDeltaConfig, blk: Weights, x: Tensor, bound: float = 0.0) -> Tensor:
    """What a token makes the state forget, from a low rank: at most e^bound, or anything (0). -> [T, H, d]"""
    n, a = c.n_head * c.kda_dim, blk.shaped("ssm_a.", c.n_head, 1)
    f = linear(blk, "ssm_f_b", linear(blk, "ssm_f_a", x), n) + blk.sized("ssm_dt.bias", n)
    if not bound:
        return heads(softplus(f), c.n_head) * a
    return scale(sigmoid(scale(heads(f, c.n_head) * a, by=-1.0)), by=bound)


def channel_delta_layer(
    c: ChannelDeltaConfig, blk: Weights, x: Tensor, inp: Inputs, forgotten: Tensor, gate: Tensor
) -> Tensor:
    """The delta rule with forgotten [T, H, d], which is negative, and the gate of its output [T, H · d]. -> [T, D]"""
    # Files may have biases, which the models' own engine ignores.
    projected = {name: linear(blk, f"attn_{name}", x, c.n_head * c.kda_dim, bias=False) for name in "qkv"}
    q, k, v = (heads(silu(own_convolution(c, blk, y, inp, name)), c.n_head) for name, y in projected.items())
    q, k = l2_norm(q, eps=c.l2_eps), l2_norm(k, eps=c.l2_eps)
    beta = sigmoid(linear(blk, "ssm_beta", x, c.n_head))
    state = inp.state(blk, "cache_s", c.n_head, c.kda_dim, c.kda_dim)
    out = norm(c, gated_delta_net(state, q, k, v, forgotten, beta, inp.where), blk, "ssm_norm")
    return linear(blk, "attn_output", side_by_side(sigmoid(heads(gate, c.n_head)) * out), c.n_embd)


def own_convolution(c: ChannelDeltaConfig, blk: Weights, x: Tensor, inp: Inputs, name: str) -> Tensor:
    """The convolution of queries (q), keys (k) or values (v), with a state of its own. [T, H · d] -> [T, H · d]"""
    return convolved(blk, x, inp, c.kernel, f"ssm_conv1d_{name}", f"cache_r_{name}")
