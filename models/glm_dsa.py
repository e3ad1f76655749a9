"""GLM-5: DeepSeek-V3.2's sparse attention, whose indexer some layers share with the one in front of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphsched.arch import Inputs, Weights, architecture, key
from graphsched.blocks import (
    SCALED_OUTPUTS,
    LatentIndexerConfig,
    RoutingConfig,
    chosen_by_indexer,
    embed,
    feed_forward,
    head,
    latent_halves,
    low_queries,
    norm,
    over_chosen,
    sparse_latent_attention,
)
from graphsched.tensor import Tensor

LONG = 1 << 20  # context of the files that have indexers in some layers only and may not say so


def indexed_layers(c: "GlmDsaConfig") -> NDArray[np.int_]:
    """The first two layers have indexers, then each fourth; all layers in files of shorter contexts."""
    layers = np.arange(c.n_layer)
    return np.where((c.n_ctx_train < LONG) | (layers < 2) | (layers % 4 == 2), 1, 0)


@dataclass(frozen=True, kw_only=True)
class GlmDsaConfig(LatentIndexerConfig, RoutingConfig):
    yarn_log: float = 0.0
    index_eps: float = 0.0
    gating: int = key("expert_gating_func", 2, low=1, high=2)
    indexed: int = key("attention.indexer.types", indexed_layers, high=1, per_layer=True)

    def wrong(self) -> Iterator[tuple[str, str]]:
        yield from super().wrong()
        if isinstance(self.indexed, np.ndarray) and not self.indexed[0]:
            yield "indexed", "1 for the first layer"


@architecture("glm-dsa", GlmDsaConfig, derive=latent_halves, scaled=SCALED_OUTPUTS)
def glm_dsa(c: GlmDsaConfig, w: Weights, inp: Inputs) -> Tensor:
    x = embed(c, w, inp)  # [T, D]
    for blk in w.blk[: c.n_run]:
        h = norm(c, x, blk, "attn_norm")
        low = low_queries(c, blk, h)
        if c.at(blk.layer).indexed:
            attend = over_chosen(chosen_by_indexer(c, blk, h, low, inp, c.rope), c.top_k, c.scale)
        x = x + sparse_latent_attention(c, blk, h, low, inp, attend)
        x = x + feed_forward(c.routing, blk, norm(c, x, blk, "ffn_norm"))
    return head(c, w, x)  # [T, V]
