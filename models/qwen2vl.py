"""Qwen2-VL, its text: Qwen2 whose rotation knows three positions of images, all the same in text."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture
from graphsched.blocks import AttentionConfig, embed, gated_ffn, head, norm, rope_of, self_attention
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Qwen2VlConfig(AttentionConfig):
    rms_eps: float = 0.0  # llama.cpp does not read the key


@architecture("qwen2vl", Qwen2VlConfig)
def qwen2vl(c: Qwen2VlConfig, w: Weights, inp: Inputs) -> Tensor:
    rope = rope_of(c, "mrope")
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, rope)
        x = x + gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x, bias=False)  # [T, V]
