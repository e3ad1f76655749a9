"""State spaces: Mamba 2's selective scan, in which a token says how much the state forgets and takes in."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from graphsched.arch.blocks.attention import heads, side_by_side
from graphsched.arch.blocks.ffn import swiglu
from graphsched.arch.blocks.hybrid import RecurrentConfig, convolved
from graphsched.arch.blocks.linear import linear, norm_by_row
from graphsched.arch.config import key
from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import silu, ssm_scan, view
from graphsched.graph.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(RecurrentConfig):
    """Keys of scans with n_scan heads, of which n_scan / n_share share inputs and outputs of the state."""

    rms_eps: float = key("attention.layer_norm_rms_epsilon")
    inner: int = key("ssm.inner_size", low=1)
    n_state: int = key("ssm.state_size", low=1)
    n_scan: int = key("ssm.time_step_rank", low=1)
    n_share: int = key("ssm.group_count", low=1)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: heads divide the inner size, and groups the heads."""
        yield from super().wrong()
        if self.inner % self.n_scan:
            yield "n_scan", f"a divisor of the inner size {self.inner}"
        if self.n_scan % self.n_share:
            yield "n_share", f"a divisor of the {self.n_scan} heads"

    @property
    def channels(self) -> int:
        """Of the convolution: heads, inputs and outputs of the state."""
        return self.inner + 2 * self.n_share * self.n_state


def mamba2_layer(c: Mamba2Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """ssm_in has the rows [gate | heads, inputs, outputs | steps]; gated, then normed by group. [T, D] -> [T, D]"""
    z, mixed, dt = split(
        linear(blk, "ssm_in", x, c.inner + c.channels + c.n_scan), c.inner, c.channels, c.n_scan
    )
    mixed = silu(convolved(blk, mixed, inp, c.kernel))
    h, b, s = split(mixed, c.inner, c.n_share * c.n_state, c.n_share * c.n_state)
    h, b, s = heads(h, c.n_scan), heads(b, c.n_share), heads(s, c.n_share)
    dt = dt + blk.sized("ssm_dt.bias", c.n_scan)
    state = inp.state(blk, "cache_s", c.n_scan, c.inner // c.n_scan, c.n_state)
    y = ssm_scan(state, h, dt, blk.shaped("ssm_a.", c.n_scan, 1), b, s, inp.where)
    y = swiglu(z, side_by_side(y + h * blk.shaped("ssm_d.", c.n_scan, 1)))
    if "ssm_norm" in blk:
        y = side_by_side(norm_by_row(c, heads(y, c.n_share), blk, "ssm_norm"))
    return linear(blk, "ssm_out", y, c.n_embd)


def split(x: Tensor, *widths: int) -> tuple[Tensor, ...]:
    """Neighbouring columns of x, as many as it says."""
    return tuple(view(x, start=a, stop=b) for a, b in pairwise((0, *accumulate(widths))))
