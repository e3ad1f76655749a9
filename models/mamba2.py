"""Mamba 2: nothing but selective scans, whose heads forget as a whole."""

from graphsched.arch import SCALED, Inputs, Weights, architecture
from graphsched.blocks import Mamba2Config, embed, head, mamba2_layer, norm
from graphsched.tensor import Tensor


@architecture("mamba2", Mamba2Config, scaled=(*SCALED, "ssm_in", "ssm_out"))
def mamba2(c: Mamba2Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + mamba2_layer(c, blk, norm(c, x, blk, "attn_norm"), inp)
    return head(c, w, x)  # [T, V]
