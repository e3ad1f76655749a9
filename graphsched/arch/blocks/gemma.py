"""What Gemma 3n and 4 share: caches that later layers read, too, and inputs for each layer from a second embedding."""

from collections.abc import Iterator
from dataclasses import dataclass

from graphsched.arch.blocks.attention import (
    PerLayerHeadsConfig,
    SlidingConfig,
    heads,
    rope_of,
    side_by_side,
    slides,
)
from graphsched.arch.blocks.linear import linear, norm
from graphsched.arch.config import key
from graphsched.arch.inputs import Inputs
from graphsched.arch.weights import Weights
from graphsched.graph.ops import Rope, flash_attn_ext, gelu, get_rows, rms_norm, rope, scale, view
from graphsched.graph.tensor import Tensor

# Keys, values and cells of the last layer of each kind that has its own: of those that slide (True), of full ones.
Caches = dict[bool, tuple[Tensor, Tensor, Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class SharedCachesConfig(PerLayerHeadsConfig, SlidingConfig):
    """Keys of attention whose last n_shared layers have no keys of their own; heads have two sizes."""

    window: int = key("attention.sliding_window", low=1)
    head_dim_swa: int = key("attention.key_length_swa", lambda c: c.head_dim, low=1)
    rope_dim_swa: int = key("rope.dimension_count_swa", lambda c: c.head_dim_swa, low=2)
    base_swa: float = key("rope.freq_base_swa", 10000.0, low=1)
    n_shared: int = key("attention.shared_kv_layers", 0)
    n_per_layer: int = key("embedding_length_per_layer_input", 0)

    def wrong(self) -> Iterator[tuple[str, str]]:
        """As `Config.wrong`: some layer has keys of its own."""
        yield from super().wrong()
        if self.n_shared >= self.n_layer:
            yield "n_shared", f"less than the {self.n_layer} layers"


def attention_of_kind(
    c: SharedCachesConfig, blk: Weights, x: Tensor, inp: Inputs, caches: Caches, *factors: Tensor
) -> Tensor:
    """Unscaled scores of normed heads; layers without keys of their own read `caches`. [T, D] -> [T, D]

    factors [n_rot / 2] divide the angles of full layers.
    """
    near = slides(c, blk)
    dim, window, factors = (c.head_dim_swa, c.window, ()) if near else (c.head_dim, 0, factors)
    rotation = Rope(c.rope_dim_swa, c.base_swa, "neox") if near else rope_of(c, "neox")
    q = norm(c, heads(linear(blk, "attn_q", x, c.n_head * dim), c.n_head), blk, "attn_q_norm")
    q = rope(q, inp.pos, *factors, rope=rotation)
    if blk.layer < c.n_layer - c.n_shared:
        k = heads(linear(blk, "attn_k", x, c.n_head_kv * dim), c.n_head_kv)
        v = heads(linear(blk, "attn_v", x, c.n_head_kv * dim), c.n_head_kv) if "attn_v" in blk else k
        k = rope(norm(c, k, blk, "attn_k_norm"), inp.pos, *factors, rope=rotation)
        held = inp.cells_of(window=window)
        caches[near] = *inp.cache(blk, k, rms_norm(v, eps=c.rms_eps), held), held.where, held.table
    keys, values, where, table = caches[near]
    out = flash_attn_ext(q, keys, values, where, table, scale=1.0, window=window)
    return linear(blk, "attn_output", side_by_side(out), c.n_embd)


def inputs_of_layers(c: SharedCachesConfig, w: Weights, x: Tensor, inp: Inputs) -> Tensor:
    """What each layer is given of the token: half from its embedding x, half from a second one. -> [T, L · P]"""
    n, width = c.n_layer, c.n_layer * c.n_per_layer
    projected = heads(scale(linear(w, "per_layer_model_proj", x, width), by=c.n_embd**-0.5), n)
    looked_up = get_rows(w.sized("per_layer_token_embd", None, width), inp.tokens)
    both = norm(c, projected, w, "per_layer_proj_norm") + heads(scale(looked_up, by=c.n_per_layer**0.5), n)
    return side_by_side(scale(both, by=0.5**0.5))


def of_layer_input(c: SharedCachesConfig, blk: Weights, x: Tensor, layer_inputs: Tensor) -> Tensor:
    """What a layer makes of its input, gated by x. [T, D], [T, L · P] -> [T, D]"""
    e = view(layer_inputs, start=blk.layer * c.n_per_layer, stop=(blk.layer + 1) * c.n_per_layer)
    gated = gelu(linear(blk, "inp_gate", x, c.n_per_layer)) * e
    return norm(c, linear(blk, "proj", gated, c.n_embd), blk, "post_norm")
