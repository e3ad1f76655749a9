"""Mamba: nothing but selective scans, whose channels forget by element of their state."""

from dataclasses import dataclass

from graphsched.arch import SCALED, Inputs, Weights, architecture, key
from graphsched.blocks import RecurrentConfig, as_row, convolved, embed, head, linear, norm, split, swiglu
from graphsched.ops import reshape, rms_norm, silu, ssm_scan
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class MambaConfig(RecurrentConfig):
    rms_eps: float = key("attention.layer_norm_rms_epsilon")
    inner: int = key("ssm.inner_size", low=1)
    n_state: int = key("ssm.state_size", low=1)
    rank: int = key("ssm.time_step_rank", low=1)
    normed: bool = key("ssm.dt_b_c_rms", False)


@architecture("mamba", MambaConfig, scaled=(*SCALED, "ssm_in", "ssm_out"))
def mamba(c: MambaConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + mamba_layer(c, blk, norm(c, x, blk, "attn_norm"), inp)
    return head(c, w, x)  # [T, V]


def mamba_layer(c: MambaConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Steps, inputs and outputs of the state come from what was convolved; each channel is a head. [T, D] -> [T, D]"""
    x, z = split(linear(blk, "ssm_in", x, 2 * c.inner), c.inner, c.inner)
    x = silu(convolved(blk, x, inp, c.kernel))
    parts = split(linear(blk, "ssm_x", x, c.rank + 2 * c.n_state), c.rank, c.n_state, c.n_state)
    dt, b, s = (scaled_part(c, blk, part, name) for part, name in zip(parts, ("dt", "b", "c"), strict=True))
    dt = linear(blk, "ssm_dt", dt, c.inner, bias=True)
    state = inp.state(blk, "cache_s", c.inner, 1, c.n_state)
    channels, a = reshape(x, shape=(*x.shape, 1)), blk.shaped("ssm_a.", c.inner, c.n_state)
    y = reshape(ssm_scan(state, channels, dt, a, as_row(b), as_row(s), inp.where), shape=x.shape)
    return linear(blk, "ssm_out", swiglu(z, y + x * blk.shaped("ssm_d.", c.inner)), c.n_embd)


def scaled_part(c: MambaConfig, blk: Weights, x: Tensor, name: str) -> Tensor:
    """Steps (dt), inputs (b) or outputs (c) of the state: normed with weights, without, or as they are."""
    if f"ssm_{name}_norm" in blk:
        return norm(c, x, blk, f"ssm_{name}_norm")
    return rms_norm(x, eps=c.rms_eps) if c.normed else x
