"""Multi-head latent attention: keys and values of all heads come from one latent row per token."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.arch.blocks.attention import RopeConfig, heads, side_by_side
from graphsched.arch.config import key
from graphsched.arch.inputs import Inputs
from graphsched.arch.stored import Derived
from graphsched.arch.weights import Weights
from graphsched.graph.ops import concat, get_rows, mul_mat, reshape, view
from graphsched.graph.tensor import Tensor, labelled

Array = NDArray[np.float32]
Attend = Callable[[Any, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class LatentConfig(RopeConfig):
    """Keys of multi-head latent attention."""

    rope_dim: int = key("rope.dimension_count", low=2)
    rank: int = key("attention.kv_lora_rank", low=1)
    head_dim: int = key("attention.key_length_mla", or_key="attention.key_length", low=1)
    v_dim: int = key("attention.value_length_mla", or_key="attention.value_length", low=1)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: a head has dimensions that are not rotated."""
        yield from super().wrong()
        if self.rope_dim >= self.head_dim:
            yield "rope_dim", f"less than the head size {self.head_dim}"

    @property
    def nope(self) -> int:
        """Dimensions of a head that do not rotate."""
        return self.head_dim - self.rope_dim

    def expanding_pays(self, n_tokens: int) -> bool:
        """Whether expanding latents costs fewer operations than attending over the latents themselves."""
        return n_tokens * (2 * self.rank - self.nope - self.v_dim) > self.rank * (self.nope + self.v_dim)


def expanded(
    c: LatentConfig, blk: Weights, latent: Tensor, k_rope: Tensor, which: range | None = None
) -> tuple[Tensor, Tensor]:
    """Keys [T, H, nope + rope] and values [T, H, v] from latents [T, R], of the heads `which` (None: all)."""
    n, which = c.nope + c.v_dim, which or range(c.n_head)
    w = blk.sized("attn_kv_b", c.n_head * n, c.rank)
    rows = None if len(which) == c.n_head else (which[0] * n, (which[-1] + 1) * n)
    kv = heads(mul_mat(w, latent, rows=rows), len(which))
    return concat(view(kv, start=0, stop=c.nope), k_rope), view(kv, start=c.nope, stop=n)


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
    k_rope = view(rows, start=c.rank, stop=rows.shape[2])
    step, outs = heads_at_once(c, int(rows.shape[0]), inp.amb), []
    for first in range(0, c.n_head, step):
        some = view(side_by_side(q), start=first * c.head_dim, stop=(first + step) * c.head_dim)
        k, v = expanded(c, blk, latent, k_rope, range(first, first + step))
        outs.append(attend(c, heads(some, step), k, v, inp.all_cells.where, own.table))
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
            halves = blk.sized("attn_k_b", *k_shape), blk.sized("attn_v_b", *v_shape)
            yield from blk.lacking("attn_kv_b", (n_rows, c.rank), _kv_b, *halves)


def _kv_b(k: Array, v: Array) -> Array:
    return np.concatenate([k.swapaxes(1, 2), v], axis=1).reshape(-1, v.shape[2])
