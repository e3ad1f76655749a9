"""DeepSeek-V2, V3 and R1: multi-head latent attention (MLA), YaRN, many small experts beside shared ones."""

import math
from dataclasses import dataclass, replace

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    LatentConfig,
    RoutingConfig,
    as_row,
    embed,
    expanded,
    experts_and_shared,
    gated_ffn,
    head,
    heads,
    latent_halves,
    linear,
    norm,
    over_expanded,
    rope_of,
    side_by_side,
)
from graphsched.ops import Rope, concat, flash_attn_ext, mul_mat, rope, view
from graphsched.tensor import Tensor, labelled


@dataclass(frozen=True, kw_only=True)
class DeepSeek2Config(LatentConfig, RoutingConfig):
    yarn_log: float = key("rope.scaling.yarn_log_multiplier", 0.0)

    @property
    def rope(self) -> Rope | None:
        """The rotary embedding; its YaRN factor is in the scale of the scores where the file gives yarn_log."""
        rope = rope_of(self, "norm")
        return replace(rope, magnitude=1.0) if rope.yarn and self.yarn_log else rope

    @property
    def scale(self) -> float:
        """Of the scores: YaRN's longer contexts need sharper ones, in queries and keys both."""
        yarn = self.rope_scaling == "yarn"
        m = 1.0 + (self.yarn_log or 0.1) * math.log(self.rope_factor or 1.0) if yarn else 1.0
        return m * m * self.head_dim**-0.5


@architecture("deepseek2", DeepSeek2Config, derive=latent_halves)
def deepseek2(c: DeepSeek2Config, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk:
        x = x + latent_attention(c, blk, norm(c, x, blk, "attn_norm"), inp)
        h = norm(c, x, blk, "ffn_norm")
        x = x + (experts_and_shared(c.routing, blk, h) if "ffn_gate_inp" in blk else gated_ffn(blk, h))
    return head(c, w, x)  # [T, V]


def latent_attention(c: DeepSeek2Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Multi-head latent attention; `inp.mla` says what is cached, heads or latents. [T, D] -> [T, D]"""
    return linear(blk, "attn_output", latent_heads(c, blk, x, inp), c.n_embd)


def latent_heads(c: DeepSeek2Config, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """What the heads of latent attention see. [T, D] -> [T, H · v]"""
    q = queries(c, blk, x)  # [T, H, nope + rope]
    q_nope, q_rope = view(q, start=0, stop=c.nope), view(q, start=c.nope, stop=c.head_dim)
    q_rope = turned(c, q_rope, inp)
    kv = linear(blk, "attn_kv_a_mqa", x, c.rank + c.rope_dim)  # one latent and one rotated key for all heads
    latent = norm(c, view(kv, start=0, stop=c.rank), blk, "attn_kv_a_norm")  # [T, R]
    k_rope = turned(c, heads(view(kv, start=c.rank, stop=kv.shape[1]), 1), inp)  # [T, 1, rope]
    if inp.mla == 0:
        k, v = inp.cache(blk, *expanded(c, blk, latent, k_rope))
        cells = inp.all_cells
        return attend(c, concat(q_nope, q_rope), k, v, cells.where, cells.table)
    return from_latents(c, blk, q_nope, q_rope, concat(as_row(latent), k_rope), inp)


def turned(c: DeepSeek2Config, x: Tensor, inp: Inputs) -> Tensor:
    """x rotated by its tokens' positions, where the model rotates."""
    return rope(x, inp.pos, rope=c.rope) if c.rope else x


def queries(c: DeepSeek2Config, blk: Weights, x: Tensor) -> Tensor:
    """Queries of all heads, directly or through a low rank. [T, D] -> [T, H, nope + rope]"""
    if "attn_q" in blk:
        return heads(labelled(linear(blk, "attn_q", x, c.n_head * c.head_dim), "q"), c.n_head)
    low = linear(blk, "attn_q_a", x)
    return heads(linear(blk, "attn_q_b", norm(c, low, blk, "attn_q_a_norm"), c.n_head * c.head_dim), c.n_head)


def from_latents(
    c: DeepSeek2Config, blk: Weights, q_nope: Tensor, q_rope: Tensor, row: Tensor, inp: Inputs
) -> Tensor:
    """Attention over cached rows [latent | rotated key]: one KV head that all heads share. -> [T, H · v]"""
    latent = view(row, start=0, stop=c.rank)
    rows, values = inp.cache(blk, row, latent) if inp.mla == 1 else (inp.cache_k(blk, row), None)
    if inp.mla > 1 and c.expanding_pays(q_nope.shape[0]):
        return over_expanded(c, blk, concat(q_nope, q_rope), rows, inp, attend)
    # attn_kv_b absorbed: q·(k_b·latent) = (q·k_b)·latent, and Σ p·(v_b·latent) = v_b·(Σ p·latent)
    q = concat(mul_mat(blk.sized("attn_k_b", c.n_head, c.rank, c.nope), q_nope), q_rope)  # [T, H, R + rope]
    cells = inp.all_cells
    values = values or view(rows, start=0, stop=c.rank)
    out = heads(attend(c, q, rows, values, cells.where, cells.table), c.n_head)  # [T, H, R]
    return side_by_side(mul_mat(blk.sized("attn_v_b", c.n_head, c.v_dim, c.rank), out))


def attend(c: DeepSeek2Config, q: Tensor, k: Tensor, v: Tensor, where: Tensor, table: Tensor) -> Tensor:
    """Attention over cells, heads side by side. -> [T, H · v]"""
    return side_by_side(flash_attn_ext(q, k, v, where, table, scale=c.scale))
