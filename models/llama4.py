"""Llama 4: chunked attention with RoPE, every fourth layer sees all without; experts in every n-th layer."""

from dataclasses import dataclass

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    AttentionConfig,
    ExpertConfig,
    as_row,
    attend,
    embed,
    feed_experts,
    gated_ffn,
    head,
    linear,
    norm,
    qkv,
    rope_of,
    rotated,
    router,
)
from graphsched.ops import get_rows, multi_add, repeat, reshape, rms_norm, sigmoid, temperature_scale, top_k
from graphsched.tensor import Tensor

CHUNK = 8192  # whatever the file says


@dataclass(frozen=True, kw_only=True)
class Llama4Config(AttentionConfig, ExpertConfig):
    window: int = key("attention.sliding_window", CHUNK)  # 0 means no chunks

    def is_global(self, layer: int) -> bool:
        """Layers that see everything and do not rotate."""
        return (layer + 1) % (4 if self.window else self.n_layer) == 0


@architecture("llama4", Llama4Config)
def llama4(c: Llama4Config, w: Weights, inp: Inputs) -> Tensor:
    factors = w.sized("rope_freqs", c.rope_dim // 2) if "rope_freqs" in w else None
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp, factors)
        h = norm(c, x, blk, "ffn_norm")
        x = x + (
            experts(c, blk, h) + gated_ffn(blk, h, "_shexp") if "ffn_gate_inp" in blk else gated_ffn(blk, h)
        )
    return head(c, w, x)  # [T, V]


def self_attention(c: Llama4Config, blk: Weights, x: Tensor, inp: Inputs, factors: Tensor | None) -> Tensor:
    """Rotated layers see chunks; the others see everything and scale queries by position. [T, D] -> [T, D]"""
    q, k, v = qkv(c, blk, x)
    chunk = 0
    if not c.is_global(blk.layer):
        q, k = rotated(rope_of(c, "norm"), q, k, inp, factors)
        chunk = CHUNK if c.window else 0
        if c.n_expert != 128:  # Maverick goes without
            q, k = rms_norm(q, eps=c.rms_eps), rms_norm(k, eps=c.rms_eps)
    elif c.window:
        q = temperature_scale(q, inp.pos, length=CHUNK, slope=0.1, offset=1)
    return linear(blk, "attn_output", attend(c, blk, q, k, v, inp, chunk=chunk), c.n_embd)


def experts(c: Llama4Config, blk: Weights, x: Tensor) -> Tensor:
    """The weight multiplies an expert's input."""
    logits = router(blk, x, c.n_expert)
    ids = top_k(logits, k=c.n_expert_used)  # [T, K]
    weights = reshape(sigmoid(get_rows(logits, ids)), shape=(*ids.shape, 1))
    rows = repeat(as_row(x), n=c.n_expert_used) * weights  # [T, K, D]
    return multi_add(feed_experts(blk, rows, ids, c.n_expert))
