"""Multi-head latent attention (MLA): keys and values of all heads come from one latent row per token."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from graphsched.arch.blocks.attention import RopeConfig, heads, less_yarn, rope_of, side_by_side
from graphsched.arch.blocks.linear import linear, norm
from graphsched.arch.blocks.moe import as_row
from graphsched.arch.config import key
from graphsched.arch.inputs import Inputs
from graphsched.arch.stored import Derived
from graphsched.arch.weights import Weights
from graphsched.graph.ops import Rope, concat, flash_attn_ext, get_rows, mul_mat, reshape, rope, view
from graphsched.graph.tensor import Tensor, labelled

Array = NDArray[np.float32]
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # q, k, v, where, table -> [T, H, v]


@dataclass(frozen=True, kw_only=True)
class LatentConfig(RopeConfig):
    """Keys of multi-head latent attention."""

    rope_dim: int = key("rope.dimension_count", low=2)
    rank: int = key("attention.kv_lora_rank", low=1)
    head_dim: int = key("attention.key_length_mla", or_key="attention.key_length", low=1)
    v_dim: int = key("attention.value_length_mla", or_key="attention.value_length", low=1)
    yarn_log: float = key("rope.scaling.yarn_log_multiplier", 0.0)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: a head has dimensions that are not rotated."""
        yield from super().wrong()
        if self.rope_dim >= self.head_dim:
            yield "rope_dim", f"less than the head size {self.head_dim}"

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

    @property
    def nope(self) -> int:
        """Dimensions of a head that do not rotate."""
        return self.head_dim - self.rope_dim

    def expanding_pays(self, n_tokens: int) -> bool:
        """Whether expanding latents costs fewer operations than attending over the latents themselves."""
        return n_tokens * (2 * self.rank - self.nope - self.v_dim) > self.rank * (self.nope + self.v_dim)


@dataclass(frozen=True, kw_only=True)
class TurnedLatentConfig(LatentConfig):
    """Latent attention that has YaRN's magnitude in the rotation, but for what the file's multiplier takes out."""

    @property
    def rope(self) -> Rope:
        """The rotary embedding."""
        return less_yarn(rope_of(self, "norm"), self.yarn_log / 0.1)

    @property
    def scale(self) -> float:
        """Of the scores: what the multiplier takes out of the rotation is here, so that it changes nothing."""
        m = 1.0 + 0.1 * math.log(self.rope_factor or 1.0) if self.rope_scaling == "yarn" else 1.0
        return m * m * self.head_dim**-0.5


def latent_attention(c: LatentConfig, blk: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """Multi-head latent attention; `inp.mla` says what is cached, heads or latents. [T, D] -> [T, D]"""
    return linear(blk, "attn_output", latent_heads(c, blk, x, inp), c.n_embd)


def latent_heads(
    c: LatentConfig,
    blk: Weights,
    x: Tensor,
    inp: Inputs,
    q: Tensor | None = None,
    attend: Attend | None = None,
) -> Tensor:
    """What the heads of latent attention see. [T, D] -> [T, H · v]

    q: queries that are not rotated yet, None: latent_queries. attend: attention over cells, None: over all of them.
    """
    q = latent_queries(c, blk, x) if q is None else q
    attend = attend or partial(flash_attn_ext, scale=c.scale)
    q_nope, q_rope, k_rope = q, None, None
    if c.rope_dim:
        q_nope, q_rope = view(q, start=0, stop=c.nope), view(q, start=c.nope, stop=c.head_dim)
        q_rope = turned(c, q_rope, inp)
    kv = linear(blk, "attn_kv_a_mqa", x, c.rank + c.rope_dim)  # one latent and one rotated key for all heads
    latent = norm(c, view(kv, start=0, stop=c.rank), blk, "attn_kv_a_norm")  # [T, R]
    if c.rope_dim:
        k_rope = turned(c, heads(view(kv, start=c.rank, stop=kv.shape[1]), 1), inp)  # [T, 1, rope]
    if inp.mla == 0:
        k, v = inp.cache(blk, *expanded(c, blk, latent, k_rope))
        q, cells = with_rope(q_nope, q_rope), inp.all_cells
        return side_by_side(attend(q, k, v, cells.where, cells.table))
    return from_latents(c, blk, q_nope, q_rope, with_rope(as_row(latent), k_rope), inp, attend)


def with_rope(x: Tensor, rotated: Tensor | None) -> Tensor:
    """[x | rotated], where the model has a part that rotates."""
    return concat(x, rotated) if rotated else x


def turned(c: LatentConfig, x: Tensor, inp: Inputs) -> Tensor:
    """x rotated by its tokens' positions, where the model rotates."""
    return rope(x, inp.pos, rope=c.rope) if c.rope else x


def low_queries(c: RopeConfig, blk: Weights, x: Tensor) -> Tensor:
    """Queries of all heads in a low rank. [T, D] -> [T, rank of queries]"""
    return norm(c, linear(blk, "attn_q_a", x), blk, "attn_q_a_norm")


def latent_queries(c: LatentConfig, blk: Weights, x: Tensor) -> Tensor:
    """Queries of all heads, directly or through a low rank. [T, D] -> [T, H, nope + rope]"""
    if "attn_q" in blk:
        return heads(labelled(linear(blk, "attn_q", x, c.n_head * c.head_dim), "q"), c.n_head)
    return heads(linear(blk, "attn_q_b", low_queries(c, blk, x), c.n_head * c.head_dim), c.n_head)


def from_latents(
    c: LatentConfig,
    blk: Weights,
    q_nope: Tensor,
    q_rope: Tensor | None,
    row: Tensor,
    inp: Inputs,
    attend: Attend,
) -> Tensor:
    """Attention over cached rows [latent | rotated key]: one KV head that all heads share. -> [T, H · v]"""
    latent = view(row, start=0, stop=c.rank)
    rows, values = inp.cache(blk, row, latent) if inp.mla == 1 else (inp.cache_k(blk, row), None)
    if inp.mla > 1 and c.expanding_pays(q_nope.shape[0]):
        return over_expanded(c, blk, with_rope(q_nope, q_rope), rows, inp, attend)
    # attn_kv_b absorbed: q·(k_b·latent) = (q·k_b)·latent, and Σ p·(v_b·latent) = v_b·(Σ p·latent)
    q = mul_mat(blk.stacked("attn_k_b", c.n_head, c.rank, c.nope), q_nope)
    q = with_rope(q, q_rope)  # [T, H, R + rope]
    values = values or view(rows, start=0, stop=c.rank)
    out = attend(q, rows, values, inp.all_cells.where, inp.all_cells.table)  # [T, H, R]
    return side_by_side(mul_mat(blk.stacked("attn_v_b", c.n_head, c.v_dim, c.rank), out))


def expanded(
    c: LatentConfig, blk: Weights, latent: Tensor, k_rope: Tensor | None, which: range | None = None
) -> tuple[Tensor, Tensor]:
    """Keys [T, H, nope + rope] and values [T, H, v] from latents [T, R], of the heads `which` (None: all)."""
    n, which = c.nope + c.v_dim, which or range(c.n_head)
    w = blk.sized("attn_kv_b", c.n_head * n, c.rank)
    rows = None if len(which) == c.n_head else (which[0] * n, (which[-1] + 1) * n)
    kv = heads(mul_mat(w, latent, rows=rows), len(which))
    return with_rope(view(kv, start=0, stop=c.nope), k_rope), view(kv, start=c.nope, stop=n)


def over_expanded(
    c: LatentConfig, blk: Weights, q: Tensor, cache: Tensor, inp: Inputs, attend: Attend
) -> Tensor:
    """Attention over cached rows [latent | rotated key], expanded to keys and values of some heads at a time.

    q [T, H, nope + rope], cache [n_kv, 1, R + rope] -> [T, H · v]. Some at a time because those of all heads would take
    more memory than `inp.amb` MiB.
    """
    own = inp.own(inp.all_cells.table)
    rows = labelled(get_rows(cache, own.ids), "kv_cache")
    latent = reshape(view(rows, start=0, stop=c.rank), shape=(rows.shape[0], c.rank))
    k_rope = view(rows, start=c.rank, stop=rows.shape[2]) if c.rope_dim else None
    step, outs = heads_at_once(c, int(rows.shape[0]), inp.amb), []
    for first in range(0, c.n_head, step):
        some = view(side_by_side(q), start=first * c.head_dim, stop=(first + step) * c.head_dim)
        k, v = expanded(c, blk, latent, k_rope, range(first, first + step))
        outs.append(side_by_side(attend(heads(some, step), k, v, inp.all_cells.where, own.table)))
    return reduce(concat, outs)


def heads_at_once(c: LatentConfig, n_kv: int, mib: int) -> int:
    """The largest divisor of n_head whose expanded keys, values and products fit `mib` MiB; at least 1."""
    size = 4 * n_kv * (c.head_dim + c.nope + c.v_dim)
    return max(n for n in range(1, c.n_head + 1) if n == 1 or (c.n_head % n == 0 and n * size <= mib << 20))


def latent_halves(c: LatentConfig, w: Weights) -> Iterator[tuple[str, Derived]]:
    """The weights by which MLA's latents are expanded, in the form that the file lacks.

    Files have attn_kv_b [H · (nope + v), rank], or its halves attn_k_b [H, rank, nope] and attn_v_b [H, v, rank].
    """
    split = (c.n_head, c.nope + c.v_dim, c.rank)
    k_shape, v_shape, n_rows = (c.n_head, c.rank, c.nope), (c.n_head, c.v_dim, c.rank), split[0] * split[1]
    for blk in w.blk:
        if "attn_kv_b" in blk:
            kv = blk.sized("attn_kv_b", n_rows, c.rank)
            yield from blk.lacking(
                "attn_k_b", k_shape, lambda x: x.reshape(split)[:, : c.nope].swapaxes(1, 2), kv
            )
            yield from blk.lacking("attn_v_b", v_shape, lambda x: x.reshape(split)[:, c.nope :], kv)
        elif "attn_kv_a_mqa" in blk:
            halves = blk.stacked("attn_k_b", *k_shape), blk.stacked("attn_v_b", *v_shape)
            yield from blk.lacking("attn_kv_b", (n_rows, c.rank), _kv_b, *halves)


def _kv_b(k: Array, v: Array) -> Array:
    return np.concatenate([k.swapaxes(1, 2), v], axis=1).reshape(-1, v.shape[2])
