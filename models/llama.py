"""Llama: pre-norm transformer, grouped-query attention with RoPE, SwiGLU feed-forward; Mixtral with experts."""

from dataclasses import dataclass

from graphsched.arch import Config, Inputs, Weights, architecture, key
from graphsched.blocks import experts, gated_ffn, head, heads, linear, norm, rope_of
from graphsched.ops import Rope, flash_attn_ext, get_rows, reshape, rope
from graphsched.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class LlamaConfig(Config):
    n_head: int = key("attention.head_count")
    n_head_kv: int = key("attention.head_count_kv", lambda c: c.n_head)
    head_dim: int = key("attention.key_length", lambda c: c.n_embd // c.n_head)
    rms_eps: float = key("attention.layer_norm_rms_epsilon")
    rope_dim: int = key("rope.dimension_count", lambda c: c.head_dim)
    rope_base: float = key("rope.freq_base", 10000.0)
    rope_scaling: str = key("rope.scaling.type", "linear")
    rope_factor: float = key("rope.scaling.factor", 1.0)
    rope_context: int = key("rope.scaling.original_context_length", lambda c: c.n_ctx_train)
    rope_attn_factor: float = key("rope.scaling.attn_factor", 1.0)
    n_expert: int = key("expert_count", 0)
    n_expert_used: int = key("expert_used_count", 0)


@architecture("llama", LlamaConfig)
def llama(c: LlamaConfig, w: Weights, inp: Inputs) -> Tensor:
    x = get_rows(w.token_embd, inp.tokens)  # [T, D]
    for blk in w.blk:
        x = x + self_attention(c, blk, norm(c, x, blk.attn_norm), inp, w)
        x = x + feed_forward(c, blk, norm(c, x, blk.ffn_norm))
    return head(c, w, x)  # [T, V]


def self_attention(c: LlamaConfig, blk: Weights, x: Tensor, inp: Inputs, w: Weights) -> Tensor:
    turn = rope_of(c, "norm")
    q = heads(linear(blk, "attn_q", x), c.n_head)  # [T, H, Dh]
    k = heads(linear(blk, "attn_k", x), c.n_head_kv)
    v = heads(linear(blk, "attn_v", x), c.n_head_kv)
    q, k = rotate(turn, w, q, inp), rotate(turn, w, k, inp)
    keys, values = inp.cache(blk, k, v)
    out = flash_attn_ext(q, keys, values, inp.where, inp.cells, scale=c.head_dim**-0.5)
    return linear(blk, "attn_output", reshape(out, shape=(x.shape[0], c.n_head * v.shape[2])))


def rotate(turn: Rope, w: Weights, x: Tensor, inp: Inputs) -> Tensor:
    return rope(x, inp.pos, w.rope_freqs, rope=turn) if "rope_freqs" in w else rope(x, inp.pos, rope=turn)


def feed_forward(c: LlamaConfig, blk: Weights, x: Tensor) -> Tensor:
    if "ffn_gate_inp" in blk:
        return experts(blk, x, n_used=c.n_expert_used, normalised=True)
    return gated_ffn(blk, x)
