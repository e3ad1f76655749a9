"""Latents, from which keys and values of all heads are made: their dimensions, the matrix that expands them."""

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
from graphsched.graph.ops import concat, mul_mat, reshape, view
from graphsched.graph.tensor import Tensor

Array = NDArray[np.float32]
Attend = Callable[[Any, Tensor, Tensor, Tensor, Inputs], Tensor]


@dataclass(frozen=True, kw_only=True)
class LatentConfig(RopeConfig):
    rope_dim: int = key("rope.dimension_count", low=2)
    rank: int = key("attention.kv_lora_rank", low=1)
    head_dim: int = key("attention.key_length_mla", or_key="attention.key_length", low=1)
    v_dim: int = key("attention.value_length_mla", or_key="attention.value_length", low=1)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if self.rope_dim >= self.head_dim:
            yield "rope_dim", f"less than the head size {self.head_dim}"

    @property
    def nope(self) -> int:
        """Dimensions of a head that do not rotate."""
        return self.head_dim - self.rope_dim

    def expanding_pays(self, n_tokens: int) -> bool:
        """Whether keys and values per head cost less than scores and sums over latents."""
        return n_tokens * (2 * self.rank - self.nope - self.v_dim) > self.rank * (self.nope + self.v_dim)


def expanded(
    c: LatentConfig, blk: Weights, latent: Tensor, k_rope: Tensor, of: range | None = None
) -> tuple[Tensor, Tensor]:
    """Keys [T, H, nope + rope] and values [T, H, v] of all heads, or some, out of latents [T, R]."""
    n, of = c.nope + c.v_dim, of or range(c.n_head)
    w = blk.sized("attn_kv_b", c.n_head * n, c.rank)
    kv = heads(
        mul_mat(w, latent, rows=None if len(of) == c.n_head else (of[0] * n, (of[-1] + 1) * n)), len(of)
    )
    return concat(view(kv, start=0, stop=c.nope), k_rope), view(kv, start=c.nope, stop=n)


def over_expanded(
    c: LatentConfig, blk: Weights, q: Tensor, rows: Tensor, inp: Inputs, attend: Attend
) -> Tensor:
    """Attention over what cached rows [latent | rotating key] expand to, some heads at a time. -> [T, H · v]"""
    latent = reshape(view(rows, start=0, stop=c.rank), shape=(rows.shape[0], c.rank))
    k_rope = view(rows, start=c.rank, stop=rows.shape[2])
    step, outs = heads_at_once(c, int(rows.shape[0]), inp.amb), []
    for first in range(0, c.n_head, step):
        some = view(side_by_side(q), start=first * c.head_dim, stop=(first + step) * c.head_dim)
        k, v = expanded(c, blk, latent, k_rope, range(first, first + step))
        outs.append(attend(c, heads(some, step), k, v, inp))
    return reduce(concat, outs)


def heads_at_once(c: LatentConfig, n_kv: int, mib: int) -> int:
    """A divisor of the heads: as many as have their products, keys and values in so many MiB, or one."""
    size = 4 * n_kv * (c.head_dim + c.nope + c.v_dim)
    return max(n for n in range(1, c.n_head + 1) if n == 1 or (c.n_head % n == 0 and n * size <= mib << 20))


def latent_parts(c: LatentConfig, w: Weights) -> Iterator[tuple[str, Derived]]:
    """attn_k_b [H, rank, nope] and attn_v_b [H, v, rank] out of attn_kv_b [H · (nope + v), rank], or back."""
    split = (c.n_head, c.nope + c.v_dim, c.rank)
    k_shape, v_shape, both = (c.n_head, c.rank, c.nope), (c.n_head, c.v_dim, c.rank), split[0] * split[1]
    for blk in w.blk:
        if "attn_kv_b" in blk:
            kv = blk.sized("attn_kv_b", both, c.rank)
            yield from blk.lacking(
                "attn_k_b", k_shape, lambda x: x.reshape(split)[:, : c.nope].swapaxes(1, 2), kv
            )
            yield from blk.lacking("attn_v_b", v_shape, lambda x: x.reshape(split)[:, c.nope :], kv)
        else:
            parts = blk.sized("attn_k_b", *k_shape), blk.sized("attn_v_b", *v_shape)
            yield from blk.lacking("attn_kv_b", (both, c.rank), _joined, *parts)


def _joined(k: Array, v: Array) -> Array:
    return np.concatenate([k.swapaxes(1, 2), v], axis=1).reshape(-1, v.shape[2])
