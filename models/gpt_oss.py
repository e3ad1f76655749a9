"""gpt-oss: attention sinks, every other layer sees a window, clamped SwiGLU experts with biases."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    ExpertConfig,
    SlidingConfig,
    as_row,
    attend,
    embed,
    feed_experts,
    head,
    linear,
    norm,
    qkv,
    rope_of,
    rotated,
    router,
    slides,
    weighted_sum,
)
from graphsched.ops import get_rows, soft_max, swiglu_oai, top_k
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class GptOssConfig(SlidingConfig, ExpertConfig):
    window: int = key("attention.sliding_window", low=1)


@architecture("gpt-oss", GptOssConfig)
def gpt_oss(c: GptOssConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + experts(c, blk, norm(c, x, blk, "post_attention_norm"))
    return head(c, w, x, tied=False)  # [T, V]


def self_attention(c: GptOssConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Attention with biases and a sink for each head. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x, bias=True)
    q, k = rotated(rope_of(c, "neox"), q, k, inp)
    sinks = blk.sized("attn_sinks", c.n_head)
    out = attend(c, blk, q, k, v, inp, sinks, window=c.window if slides(c, blk) else 0)
    return linear(blk, "attn_output", out, c.n_embd, bias=True)


def experts(c: GptOssConfig, blk: Weights, x: Tensor) -> Tensor:
    """Experts whose weights are a softmax over the chosen logits. [T, D] -> [T, D]"""
    logits = router(blk, x, c.n_expert, bias=True)
    ids = top_k(logits, k=c.n_expert_used)  # [T, K]
    weights = soft_max(get_rows(logits, ids))  # over the chosen only
    return weighted_sum(feed_experts(blk, as_row(x), ids, c.n_expert, swiglu_oai, bias=True), weights)
