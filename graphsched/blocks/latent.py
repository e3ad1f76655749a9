"""The two forms in which files hold what expands latents: attn_kv_b, or its parts per head."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsched.arch import Derived, Weights

Array = NDArray[np.float32]


def latent_parts(w: Weights, n_head: int, nope: int, v_dim: int, rank: int) -> Iterator[tuple[str, Derived]]:
    """attn_k_b [H, rank, nope] and attn_v_b [H, v, rank] out of attn_kv_b [H · (nope + v), rank], or back."""

    def keys(kv: Array) -> Array:
        return kv.reshape(n_head, nope + v_dim, rank)[:, :nope].swapaxes(1, 2)

    def values(kv: Array) -> Array:
        return kv.reshape(n_head, nope + v_dim, rank)[:, nope:]

    k_shape, v_shape, kv_shape = (n_head, rank, nope), (n_head, v_dim, rank), (n_head * (nope + v_dim), rank)
    for blk in w.blk:
        if "attn_kv_b" in blk:
            kv = blk.sized("attn_kv_b", *kv_shape)
            yield from blk.lacking("attn_k_b", k_shape, keys, kv)
            yield from blk.lacking("attn_v_b", v_shape, values, kv)
        else:
            parts = blk.sized("attn_k_b", *k_shape), blk.sized("attn_v_b", *v_shape)
            yield from blk.lacking("attn_kv_b", kv_shape, _joined, *parts)


def _joined(*parts: Any) -> Array:
    k, v = parts
    return np.concatenate([k.swapaxes(1, 2), v], axis=1).reshape(-1, v.shape[2])
