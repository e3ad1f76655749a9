"""Muse Glimmer: AFMoE's gated attention without experts; full layers do not rotate, the embedding is normed."""

from dataclasses import dataclass, replace

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    Pattern,
    SlidingConfig,
    attend,
    embed,
    gated_ffn,
    gated_heads,
    head,
    linear,
    norm,
    normed_heads,
    qkv,
    rope_of,
    rotated,
    slides,
)
from graphsched.ops import rms_norm, scale, sigmoid, softcap
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class MuseGlimmerConfig(SlidingConfig):
    window: int = key("attention.sliding_window", low=1)
    pattern: Pattern = key("attention.sliding_window_pattern", 4, low=1)
    base_swa: float = key("rope.freq_base_swa", lambda c: c.rope_base, low=1)
    logit_scale: float = key("logit_scale")
    final_cap: float = key("final_logit_softcapping", 0.0)


@architecture("muse-glimmer", MuseGlimmerConfig)
def muse_glimmer(c: MuseGlimmerConfig, w: Weights, inp: Inputs) -> Tensor:
    behind = replace(c, rms_eps=1e-8)  # of norms behind sub-layers
    x = rms_norm(embed(c, w, inp), eps=c.rms_eps)  # [T, D]
    for blk in w.blk:
        attention = self_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        x = x + norm(behind, attention, blk, "post_attention_norm")
        ffn = gated_ffn(blk, norm(c, x, blk, "ffn_norm"))
        x = x + norm(behind, ffn, blk, "post_ffw_norm")
    logits = scale(head(c, w, x), by=c.logit_scale)  # [T, V]
    return softcap(logits, cap=c.final_cap) if c.final_cap else logits


def self_attention(c: MuseGlimmerConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Normed heads, rotated where they see a window; the output times sigmoid(attn_gate · x). [T, D] -> [T, D]"""
    near = slides(c, blk)
    q, k, v = qkv(c, blk, x)
    q, k = normed_heads(c, blk, q, k)
    q, k = rotated(rope_of(c, "norm", c.base_swa), q, k, inp) if near else (q, k)
    out = attend(c, blk, q, k, v, inp, window=c.window if near else 0)
    return linear(blk, "attn_output", gated_heads(blk, out, x, c.n_head, sigmoid), c.n_embd)
