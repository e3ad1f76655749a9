"""OLMo: Llama with LayerNorm that has no weights, and clipped queries, keys and values."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import LayerNormConfig, embed, gated_ffn, project, rope_of, self_attention
from graphsched.ops import layer_norm
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class OlmoConfig(LayerNormConfig):
    clip: float = key("attention.clamp_kqv", 0.0)


@architecture("olmo", OlmoConfig)
def olmo(c: OlmoConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "norm")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, layer_norm(x, eps=c.ln_eps), inp, rope, clip=c.clip)
        x = x + gated_ffn(blk, layer_norm(x, eps=c.ln_eps))
    return project(w, layer_norm(x, eps=c.ln_eps))  # [T, V]
