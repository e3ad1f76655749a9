"""Apertus: Llama with normed queries and keys, and xIELU without a gate."""

from dataclasses import dataclass

import numpy as np

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    embed,
    head,
    norm,
    normed_heads,
    plain_ffn,
    rope_factors,
    rope_of,
    self_attention,
)
from graphsched.ops import xielu
from graphsched.tensor import Tensor

ANY = 1e6  # either way


@dataclass(frozen=True, kw_only=True)
class ApertusConfig(AttentionConfig):
    alpha_n: float = key("xielu.alpha_n", low=-ANY, high=ANY, per_layer=True, prefixed=False)
    alpha_p: float = key("xielu.alpha_p", low=-ANY, high=ANY, per_layer=True, prefixed=False)
    beta: float = key("xielu.beta", low=-ANY, high=ANY, per_layer=True, prefixed=False)
    eps: float = key("xielu.eps", low=-ANY, high=0, per_layer=True, prefixed=False)

    def bent(self, x: Tensor) -> Tensor:
        """xIELU with a layer's numbers, of which files hold what softplus takes. [T, F] -> [T, F]"""
        alpha_n, alpha_p = (float(np.logaddexp(0.0, a)) for a in (self.alpha_n, self.alpha_p))
        return xielu(x, alpha_n=self.beta + alpha_n, alpha_p=alpha_p, beta=self.beta, eps=self.eps)


@architecture("apertus", ApertusConfig)
def apertus(c: ApertusConfig, w: Weights, inp: Inputs) -> Tensor:
    rope, factors = rope_of(c, "neox"), rope_factors(c, w, inp)
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        h = norm(c, x, blk, "attn_norm")
        x = x + self_attention(c, blk, h, inp, rope, factors, qk_norm=normed_heads)
        x = x + plain_ffn(blk, norm(c, x, blk, "ffn_norm"), c.at(blk.layer).bent)
    return head(c, w, x, tied=False)  # [T, V]
