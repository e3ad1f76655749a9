"""GPT-NeoX: LayerNorm, partial RoPE, attention and feed-forward side by side, each behind a norm of its own."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import LayerNormConfig, embed, head, norm, plain_ffn, rope_of, self_attention
from graphsched.ops import gelu
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class GptNeoxConfig(LayerNormConfig):
    is_parallel: bool = key("use_parallel_residual")


@architecture("gptneox", GptNeoxConfig)
def gptneox(c: GptNeoxConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "neox")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        attended = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = attended + plain_ffn(blk, norm(c, x if c.is_parallel else attended, blk, "ffn_norm"), gelu)
    return head(c, w, x, tied=False)  # [T, V]
