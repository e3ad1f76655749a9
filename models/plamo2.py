"""PLaMo 2: Mamba 2 whose steps come from what was convolved; attention with normed heads; norms on both sides."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    HybridHeadsConfig,
    RecurrentConfig,
    as_row,
    attend,
    convolved,
    embed,
    gate_up_ffn,
    head,
    heads,
    linear,
    norm,
    norm_by_row,
    qkv,
    rope_of,
    rotated,
    side_by_side,
    split,
    swiglu,
)
from graphsched.ops import cont, silu, ssm_scan
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Plamo2Config(RecurrentConfig, HybridHeadsConfig):
    inner: int = key("ssm.inner_size", low=1)
    n_state: int = key("ssm.state_size", low=1)
    n_scan: int = key("ssm.time_step_rank", low=1)

    @property
    def rank(self) -> int:
        """Of the steps."""
        return max(64, self.n_embd // 16)


@architecture("plamo2", Plamo2Config, scaled=("attn_output",))
def plamo2(c: Plamo2Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        own, h = c.at(blk.layer), norm(c, x, blk, "attn_norm")
        y = self_attention(own, blk, h, inp) if own.n_head_kv else mamba_layer(own, blk, h, inp)
        x = x + norm(c, y, blk, "post_attention_norm.")
        x = x + norm(c, gate_up_ffn(blk, norm(c, x, blk, "ffn_norm")), blk, "post_ffw_norm.")
    return head(c, w, x)  # [T, V]


def mamba_layer(c: Plamo2Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """ssm_in has, head by head, the gate in front of what is scanned. [T, D] -> [T, D]"""
    size = c.inner // c.n_scan
    z, x = split(heads(linear(blk, "ssm_in", x, 2 * c.inner), c.n_scan), size, size)
    x = silu(convolved(blk, side_by_side(cont(x)), inp, c.kernel))
    parts = split(linear(blk, "ssm_x", x, c.rank + 2 * c.n_state), c.n_state, c.n_state, c.rank)
    b, s, dt = (norm(c, part, blk, f"ssm_{n}_norm.") for part, n in zip(parts, ("b", "c", "dt"), strict=True))
    dt, x = linear(blk, "ssm_dt", dt, c.n_scan, bias=True), heads(x, c.n_scan)
    state, a = inp.state(blk, "cache_s", c.n_scan, size, c.n_state), blk.shaped("ssm_a.", c.n_scan, 1)
    y = ssm_scan(state, x, dt, a, as_row(b), as_row(s), inp.where) + x * blk.shaped("ssm_d.", c.n_scan, 1)
    return linear(blk, "ssm_out", side_by_side(swiglu(z, y)), c.n_embd)


def self_attention(c: Plamo2Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Each head of queries and keys is normed with weights of its own. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x)
    q = norm_by_row(c, q, blk, "attn_q_norm")
    k = norm_by_row(c, k, blk, "attn_k_norm")
    q, k = rotated(rope_of(c, "neox"), q, k, inp)
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp, scale=c.v_dim**-0.5), c.n_embd)
